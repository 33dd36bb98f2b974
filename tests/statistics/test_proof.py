"""One failed claim, or none at all, fails the whole run."""

from proof import Verdict, exit_status, report, timed

HOLDS, FAILS = Verdict("a claim", "all", "nothing wrong", holds=True), Verdict("another", "all", "1 wrong", holds=False)


def test_a_run_succeeds_only_if_there_are_claims_and_all_hold(capsys):
    """Nothing proven is not success."""
    assert exit_status([HOLDS, HOLDS]) == 0
    assert exit_status([HOLDS, FAILS]) == 1
    assert exit_status([]) == 1
    assert "1 of 2 claims hold" in capsys.readouterr().err


def test_every_verdict_is_told_with_its_time(capsys):
    """As it comes, failures as such."""
    told = report(timed([lambda: HOLDS, lambda: FAILS]))
    lines = capsys.readouterr().out.splitlines()
    assert [verdict.holds for verdict in told] == [True, False]
    assert [line.split()[0] for line in lines] == ["holds", "FAILS"]
    assert all(line.endswith(" s") for line in lines)
