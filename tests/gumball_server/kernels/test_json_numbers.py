"""The kernel that reads the numbers of JSON: what it reads is what Python's parser reads, and nothing else."""

import json
import math
import random
import re
import struct

import numpy as np
import pytest
from gumball_server.kernels.json_numbers import TWICE, read_numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st

MASK = {"logits": -np.inf, "probs": 0.0}


def read(body: bytes) -> tuple[str, np.ndarray, bytes, int | None] | None:
    """The member's name, its rows, the body without the numbers and the seed, and the seed; None where it declines."""
    out = np.full(len(body) // 2 + 1, np.nan, np.float32)
    start, end, rows, categories, are_probs, seed_start, seed_end, seed = read_numbers(
        np.frombuffer(body, np.uint8), out
    )
    if not end or end == TWICE:
        return None
    cuts = sorted([(start, end)] + ([(seed_start, seed_end)] if seed_end else []), reverse=True)
    rest = body
    for cut_start, cut_end in cuts:
        rest = rest[:cut_start] + b"0" + rest[cut_end:]
    name = "probs" if are_probs else "logits"
    return name, out[: max(rows, 1) * categories].reshape(-1, categories), rest, seed % 2**64 if seed_end else None


def expected(text: str) -> np.float32:
    """The float32 of a decimal, by Python's parser: through float64 (and -0 is an integer)."""
    return np.float32(float(json.loads(text)))


FEW = ["0.5"] * 40  # at the ends numbers are not read many at a time


def assert_reads(decimals: list[str]) -> None:
    decimals = [*FEW, *decimals, *FEW]
    got = read(f'{{"logits":[{",".join(decimals)}]}}'.encode())
    assert got is not None, decimals
    want = np.array([expected(each) for each in decimals], np.float32)
    assert got[1].tobytes() == want.reshape(1, -1).tobytes(), decimals


finite = st.floats(width=64, allow_nan=False, allow_infinity=False, min_value=-3e38, max_value=3e38)


@given(st.lists(finite, min_size=1, max_size=40))
@example([5e-324, 2.2250738585072014e-308, 1.1754943508222875e-38, 1.4e-45, 7e-46, 3.4028234663852886e38])
def test_numbers_are_those_of_a_float64_reader(numbers: list[float]):
    """In the notations that programs write: shortest, with 17 digits, fixed and with an exponent."""
    assert_reads([repr(x) for x in numbers])
    assert_reads([f"{x:.16e}" for x in numbers])
    assert_reads([f"{x:.6f}" if abs(x) < 1e12 else repr(x) for x in numbers])  # longer ones are the parser's
    assert_reads([f"{x:.18g}" for x in numbers])


@given(st.integers(0, 10**19 - 1), st.integers(-360, 30), st.sampled_from(["", "-"]))
def test_any_decimal_of_19_digits_is_rounded_right(digits: int, exponent: int, sign: str):
    """To the nearest float64 and from there to the nearest float32, or it is left to the parser."""
    decimal = f"{sign}{digits}e{exponent}"
    with np.errstate(over="ignore"):
        beyond = np.isinf(expected(decimal))
    if beyond:
        assert read(f'{{"logits":[{decimal}]}}'.encode()) is None
    else:
        assert_reads([decimal])


@given(st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,17})\.[0-9]{1,20}", fullmatch=True), min_size=1))
def test_any_decimal_with_a_point_is_rounded_right(decimals: list[str]):
    """Of at most 19 digits, wherever the point is; longer ones may be the parser's."""
    assert_reads([each for each in decimals if len(each.replace(".", "").lstrip("-0")) <= 19])


def test_decimals_next_to_a_tie_are_rounded_right():
    """Half way between two float32, and the next decimals on both sides; half way between two float64 likewise."""
    generator = random.Random(1)
    decimals = []
    for _ in range(3000):
        bits = generator.randrange(1 << 23, 0x7F000000)
        low, high = (struct.unpack("<f", struct.pack("<I", bits + i))[0] for i in (0, 1))
        tie = (low + high) / 2  # exact in float64
        decimals += [repr(tie), repr(math.nextafter(tie, 0)), repr(math.nextafter(tie, math.inf))]
    for _ in range(3000):
        tie = (generator.randrange(1 << 24, 1 << 25) | 1) * 2.0 ** generator.randrange(-28, -18)
        near = [tie * (1 + steps * 2.0**-52) for steps in range(-7, 8)]
        decimals += [f"{each:.{digits}f}" for each in near for digits in (15, 16, 17)]
    for _ in range(3000):
        odd = (generator.getrandbits(53) | 1 << 53) | 1  # 54 bits: half way between two float64
        decimals += [str(odd), str(odd - 1), str(odd + 1), f"{odd}e-3", f"{odd * 5}e-1"]
    assert_reads([decimal for decimal in decimals if len(re.sub(r"e.*|\D", "", decimal)) <= 19])


WHITE = st.sampled_from(["", " ", "\n", "\t ", "\r\n"])


@st.composite
def documents(draw) -> tuple[str, str, list, dict]:
    """JSON text with rows of equal length among other members, blanks anywhere, and what it says."""
    name = draw(st.sampled_from(["logits", "probs"]))
    columns = draw(st.integers(1, 5))
    row = st.lists(st.none() | finite | st.integers(-(10**6), 10**6), min_size=columns, max_size=columns)
    rows = draw(st.lists(row, min_size=1, max_size=4) | row)
    others = draw(
        st.dictionaries(
            st.text(max_size=6).filter(lambda key: key not in ("logits", "probs", "seed")),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
                max_leaves=6,
            ),
            max_size=3,
        )
    )
    members = {**others, name: rows}
    if draw(st.booleans()):
        members["seed"] = draw(st.integers(0, 2**64 - 1) | st.integers(0, 2**64 - 1).map(str))
    order = draw(st.permutations(list(members)))
    comma, colon, before, after = (
        draw(WHITE) + "," + draw(WHITE),
        draw(WHITE) + ":" + draw(WHITE),
        draw(WHITE),
        draw(WHITE),
    )
    text = before + json.dumps({key: members[key] for key in order}, separators=(comma, colon)) + after
    return text, name, rows, members


@given(documents())
@settings(max_examples=300)
def test_numbers_and_seed_are_found_among_any_other_members(document):
    """And what is left when they are cut out is the rest of the request."""
    text, name, rows, members = document
    got = read(text.encode())
    if got is None:
        assert "\\" in text  # a key that may spell anything is the parser's
        return
    found, values, rest, seed = got
    matrix = rows if isinstance(rows[0], list) else [rows]
    want = [[MASK[name] if x is None else x for x in row] for row in matrix]
    assert found == name
    assert values.tobytes() == np.array(want, np.float64).astype(np.float32).tobytes()
    assert seed == (int(members["seed"]) if "seed" in members else None)
    assert json.loads(rest) == members | {name: 0} | ({"seed": 0} if "seed" in members else {})


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "[]",
        '{"seed":1}',
        '{"logits":[]}',
        '{"logits":[[]]}',
        '{"logits":[[1],[1,2]]}',
        '{"logits":[1,[2]]}',
        '{"logits":[[1],2]}',
        '{"logits":[01]}',
        '{"logits":[1.]}',
        '{"logits":[.5]}',
        '{"logits":[+1]}',
        '{"logits":[-]}',
        '{"logits":[1e]}',
        '{"logits":[1e+]}',
        '{"logits":[1e9999999]}',
        '{"logits":[NaN]}',
        '{"logits":[nul]}',
        '{"logits":[true]}',
        '{"logits":["1"]}',
        '{"logits":[1,]}',
        '{"logits":[1 2]}',
        '{"logits":[1]',
        '{"logits":[1',
        '{"logits":',
        '{"logits"',
        '{"logits":[1],"probs":[2]}',
        '{"logits":[1],"seed":-1}',
        '{"logits":[1],"seed":1.0}',
        '{"logits":[1],"seed":1e3}',
        '{"logits":[1],"seed":007}',
        '{"logits":[1],"seed":""}',
        '{"logits":[1],"seed":"1}',
        '{"logits":[1],"seed":18446744073709551616}',
        '{"logits":[1],"seed":99999999999999999999}',
        '{"logits":[1],"seed":null}',
        '{"l\\u006fgits":[1]}',
        '{"logits":[3.5e38]}',
        '{"logits":[1e400]}',
        '{"logits":[12345678901234567890]}',
        '{"x":{"logits":[1]}}',
        '{"x":"logits\\":[1]"}',
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(body: str):
    """Which accepts it, or says what is wrong with it."""
    assert read(body.encode()) is None


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"logits":[1],"logits":[2]}', "logits"),
        ('{"seed":1,"logits":[1],"seed":2}', "seed"),
        ('{"x":{"x":1},"ab":"x","x":1}', "x"),
        ('{"":1,"abc":2,"ab":3,"":4', ""),
    ],
)
def test_a_member_that_is_given_twice_is_told(body: str, name: str):
    """By where its name starts."""
    start, end, *_ = read_numbers(np.frombuffer(body.encode(), np.uint8), np.empty(len(body), np.float32))
    assert end == TWICE
    assert body[start:].startswith(f'{name}"')


@given(st.binary(max_size=80) | st.text('{}[]",:logitsprobseed0123456789.-+eE \\n', max_size=60).map(str.encode))
def test_no_bytes_are_read_past_their_end_or_for_what_they_are_not(body: bytes):
    """If it reads a body, Python's parser reads the same numbers there."""
    got = read(body)
    if got is not None:
        name, values, rest, _ = got
        assert json.loads(rest)[name] == 0
        said = np.array(json.loads(body)[name], np.float64)
        said[np.isnan(said)] = MASK[name]
        assert values.ravel().tobytes() == said.astype(np.float32).tobytes()
