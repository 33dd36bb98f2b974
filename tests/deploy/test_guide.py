"""The operator's guide speaks of what there is."""

import re
from dataclasses import fields

import pytest
from gumball_server.settings import Settings
from helm_chart import DEPLOY, ROOT

GUIDE = (DEPLOY / "README.md").read_text()


def test_every_setting_has_its_topic():
    """And no other is named there."""
    table = GUIDE.partition("| topic | settings |")[2].partition("\n\n")[0]
    told = [name for row in table.splitlines() for name in re.findall(r"`(\w+)`", "|".join(row.split("|")[1:3]))]
    assert sorted(told) == sorted(each.name for each in fields(Settings))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:deploy|tests|examples|grafana)/[\w./-]+\w", GUIDE))))
def test_every_file_that_it_names_is_there(path):
    """From the top of the repository, or from the guide."""
    assert (ROOT / path).exists() or (DEPLOY / path).exists()


@pytest.mark.parametrize("anchor", sorted(set(re.findall(r"\(#([\w-]+)\)", GUIDE))))
def test_every_link_within_it_leads_somewhere(anchor):
    """To a heading, written as anchors are."""
    headings = re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
