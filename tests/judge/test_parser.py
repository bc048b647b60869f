"""Replies as models send them."""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from judge_support import reply

from roboalign_core.judge.cache import cache_key
from roboalign_core.judge.chat import Answers, ChatJudge, Question, SamplingConfig
from roboalign_core.judge.opinions import opinions
from roboalign_core.judge.parser import LOOKED_AT, ReplyError, parse_reply
from roboalign_core.judge.prompt import PromptConfig
from roboalign_core.judge.protocol import Judgement, Video
from roboalign_core.judge.table import JudgementTable, read_judgements
from roboalign_core.judge.targets import target_reply
from roboalign_core.rubric import DIMENSIONS, HIGHEST, KEYS

SCORES = (3, 1, 0, 1, 1, 2)
GOOD = {"reasoning": "It moves.", **dict(zip(KEYS, SCORES, strict=True))}
TEXT = json.dumps(GOOD)
OTHER = json.dumps({**GOOD, **dict.fromkeys(KEYS, 0)})


ANALYSIS = "<|channel|>analysis<|message|>"
THOUGHTS = [
    *(("<think>", "</think>"), ("<THINK>", "</THINK>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>")),
    *(("[THINK]", "[/THINK]"), (ANALYSIS, "<|end|>")),
]


def changed(**values: object) -> str:
    return json.dumps({**GOOD, **values})


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        json.dumps(GOOD, indent=2),
        f"```json\n{TEXT}\n```",
        f"The arm moves {{slowly}} to the cube.\n{TEXT}\nThat is all.",
        f"<think>Perhaps {OTHER}?</think>\n{TEXT}",
        f"<think>{OTHER}</think>{TEXT}<think>{OTHER}</think>",
        f"Perhaps {OTHER}? No.\n</think>\n\n{TEXT}",
        f"<think>It moves.\n{TEXT}",
        f"<think>It moves.\n```json\n{TEXT}\n```\n",
        f"{OTHER}\nOn second thoughts:\n{TEXT}",
        f"{TEXT}\n{{}}",
        f"{TEXT}\nThat is what {{I}} see }}.",
        f"<thinking>Perhaps {OTHER}?</thinking>{TEXT}",
        f"<THINK>Perhaps {OTHER}?</THINK>\n{TEXT}",
        f"[THINK]Perhaps {OTHER}?[/THINK]{TEXT}",
        f"◁think▷Perhaps {OTHER}?◁/think▷{TEXT}",
        f"<think>Perhaps <think>{OTHER}?</think> {OTHER}</think>{TEXT}",
        f"Well. <think>It moves.\n{TEXT}",
        f"{ANALYSIS}Perhaps {OTHER}?<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}<|return|>",
        f"{ANALYSIS}Perhaps {OTHER}?<|end|>{TEXT}<|end|>",
        f"{ANALYSIS}Perhaps {OTHER}? {{<|channel|>final <|constrain|>json<|message|>{TEXT}",
        f"Perhaps {OTHER}?<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}",
        TEXT.replace("}", ', "Contact Realism": 1}'),
        repr(GOOD).replace("}", ", 'contact_realism': 1}"),
        json.dumps({"draft": GOOD, "final": GOOD}),
        json.dumps({"scores": GOOD}),
        json.dumps({"reasoning": "It moves.", "result": {**GOOD}}),
        json.dumps([{"video": 1}, GOOD]),
        repr(GOOD),
        TEXT.replace("}", ",}"),
        TEXT.replace("It moves.", "It\nmoves.").replace("It\nmoves.", "It moves."),
        changed(confidence=0.5, extra={"a": [1]}),
        changed(instruction_following="3.", manipulation_success=" 1 ", physics_adherence="2.0"),
        changed(instruction_following="3/3", manipulation_success="1 / 2", physics_adherence="2 out of 2"),
        changed(instruction_following={"score": 3, "why": "x"}, physics_adherence={"value": 2}),
        json.dumps({"reasoning": "It moves."} | {d.title: s for d, s in zip(DIMENSIONS, SCORES, strict=True)}),
        TEXT.replace('"instruction_following": 3', '"instruction_following": 3.0'),
        "x" * 100_000 + TEXT,
        TEXT + "\n" * LOOKED_AT,
    ],
)
def test_what_models_send(text: str) -> None:
    found = parse_reply(text)
    assert tuple(found.scores) == KEYS
    assert tuple(found.scores.values()) == SCORES
    assert found.reasoning == "It moves."


def test_in_between_scores_and_silence() -> None:
    text = changed(instruction_following=1.5, reasoning=None)
    assert parse_reply(text).scores["instruction_following"] == 1.5
    assert parse_reply(text).reasoning == ""
    assert parse_reply(TEXT.replace("It moves.", "It\nmoves.")).reasoning == "It\nmoves."


@pytest.mark.parametrize(("begin", "end"), THOUGHTS)
def test_marks_of_thoughts_in_a_string_are_words(begin: str, end: str) -> None:
    said = f"It says {end} and {begin}."
    for before in ("", f"{begin}Perhaps {OTHER}?{end}", f"Perhaps {OTHER}?</think>", begin):
        for text in (changed(reasoning=said), repr({**GOOD, "reasoning": said})):
            found = parse_reply(before + text)
            assert tuple(found.scores.values()) == SCORES
            assert found.reasoning == said


def test_what_prose_says_of_an_object_is_not_understood() -> None:
    """A limit; see docs/judge.md."""
    text = f"Perhaps {OTHER}? No, that is wrong; I cannot rate this video."
    assert not any(parse_reply(text).scores.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found none in ''"),
        ("The robot does well.", "found none in 'The robot does well.'"),
        (TEXT[:-1], "found none in "),
        (f"<think>{TEXT}</think>", "found none in "),
        (f"<think>Perhaps {TEXT} or", "found a thought without an end"),
        (f"<think>Perhaps {TEXT} or {{this}}", "found a thought without an end"),
        (f"{TEXT}</think>", "found none in "),
        *((f"{begin}{TEXT}{end}", "found none in ") for begin, end in THOUGHTS),
        *((f"{begin}Perhaps {TEXT} or", "found a thought without an end") for begin, _ in THOUGHTS),
        (f"<|channel|>final<|message|>{TEXT}<|end|><|channel|>final<|message|>No.", "found none in "),
        (f'{TEXT}\n{{"instruction_following": 0', "nothing after the scores, found others that are not whole"),
        (f"{TEXT}\n{TEXT[:-1]}", "nothing after the scores"),
        (f"Perhaps {TEXT}. Better:\n```json\n{TEXT[:20]}", "nothing after the scores"),
        (f"{TEXT}\n{{", "nothing after the scores"),
        (f'{TEXT}\n{{"contact_realism": 0}}', "nothing after the scores"),
        (f"{TEXT}\n{{Contact Realism: 0}}", "nothing after the scores"),
        (f"{TEXT}<think>Or rather {TEXT}", "nothing after the scores"),
        (TEXT.replace("}", ', "Contact Realism": 0}'), "contact_realism: expected one score, found several"),
        (TEXT.replace("}", ', "contact_realism": 0}'), "contact_realism: expected one score, found several"),
        (TEXT.replace("}", ', "contact_realism": true}'), "contact_realism: expected one score, found several"),
        (TEXT.replace("{", '{"contact realism": null, '), "contact_realism: expected one score, found several"),
        (repr(GOOD).replace("}", ", 'contact_realism': 0}"), "contact_realism: expected one score, found several"),
        (
            json.dumps({"scores": GOOD, "highest": {**GOOD, KEYS[1]: 2}}),
            f"{KEYS[1]}: expected one score, found several",
        ),
        (TEXT.replace(": 3", ': {"score": 3, "Score": 2}'), "expected a number from 0 to 3, found {'score': 2}"),
        (changed(physics_adherence="2 (mostly)"), r"expected a number from 0 to 2, found '2 \(mostly\)'"),
        (
            json.dumps({k: v for k, v in GOOD.items() if k not in KEYS[1:3]}),
            "none with manipulation_success, action_out",
        ),
        (changed(instruction_following=4), "instruction_following: expected 0 to 3, found 4"),
        (changed(physics_adherence=-1), "physics_adherence: expected 0 to 2, found -1"),
        (changed(contact_realism=1.01), "contact_realism: expected 0 to 1, found 1.01"),
        (f"{TEXT} {changed(contact_realism=2)}", "contact_realism: expected 0 to 1, found 2"),
        (TEXT.replace(": 3", ": NaN"), "instruction_following: expected 0 to 3, found nan"),
        (TEXT.replace(": 3", ": Infinity"), "instruction_following: expected 0 to 3, found nan"),
        (TEXT.replace(": 3", ": 1e999"), "instruction_following: expected 0 to 3, found nan"),
        (TEXT.replace(": 3", ": " + "9" * 3000), "instruction_following: expected 0 to 3, found nan"),
        (changed(instruction_following=True), "instruction_following: expected a number from 0 to 3, found True"),
        (changed(instruction_following=None), "instruction_following: expected a number from 0 to 3, found None"),
        (changed(instruction_following=[3]), r"expected a number from 0 to 3, found \[3\]"),
        (changed(instruction_following="3/5"), "expected a number from 0 to 3, found '3/5'"),
        (changed(instruction_following="two"), "expected a number from 0 to 3, found 'two'"),
        (changed(instruction_following="5/3"), "expected 0 to 3, found 5"),
        (changed(instruction_following="x" * 500), "found 'xxx.* .* xxx"),
        (TEXT + "x" * LOOKED_AT, "found none in"),
    ],
)
def test_what_gives_no_scores(text: str, message: str) -> None:
    with pytest.raises(ReplyError, match=message) as found:
        parse_reply(text)
    assert len(str(found.value)) < 500


PIECES = st.sampled_from(
    [
        *(TEXT, OTHER, TEXT[:-1], repr(GOOD), "<think>", "</think>", "```", "```json", "{", "}", '"', "'", "[", "]"),
        *(",", ":", "NaN", "\\", "\n", "instruction_following", '"instruction_following": 2', "{'a': (1, 2)}", "1e999"),
        *("\ud800", "é", "\\ud83d", "[THINK]", "[/THINK]", ANALYSIS, "<|end|>", "<|channel|>final<|message|>"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["2/3", "1", "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "score", "x"]), inner),
    max_leaves=8,
)


def scores_or_one_error(text: str) -> bool:
    """Whether it gave scores, all of them in their ranges."""
    try:
        found = parse_reply(text)
    except ReplyError as error:
        if not str(error).startswith("reply: "):
            raise
        return False
    assert tuple(found.scores) == KEYS
    raw = np.array(list(found.scores.values()))
    assert ((raw >= 0) & (raw <= HIGHEST)).all()
    return True


@settings(deadline=None, max_examples=300)
@given(st.lists(PIECES | st.text(max_size=8), max_size=12).map("".join))
def test_any_text_gives_scores_or_one_error(text: str) -> None:
    scores_or_one_error(text)


INTACT = [
    *(TEXT, OTHER, f"```json\n{TEXT}\n```", repr(GOOD), TEXT.replace("It moves.", "It moves \\ud83d.")),
    *(f"<think>Perhaps {OTHER}?</think>\n{TEXT}", f"[THINK]Perhaps {OTHER}?[/THINK]{TEXT}", f"{OTHER} No:\n{TEXT}"),
    f"{ANALYSIS}Perhaps {OTHER}?<|end|><|start|>assistant<|channel|>final<|message|>{TEXT}<|return|>",
    TEXT.replace("}", ', "Contact Realism": 1}'),
]


def test_ten_thousand_damaged_replies_give_scores_or_one_error() -> None:
    rng = np.random.default_rng(0)
    outcomes = Counter(scores_or_one_error(damaged(INTACT[n % len(INTACT)], rng)) for n in range(10_000))
    assert min(outcomes[True], outcomes[False]) > 1000  # neither is rare


class Echo(ChatJudge):
    """Replies what it is asked."""

    def __init__(self, cache: Path) -> None:
        super().__init__("echo", {}, SamplingConfig(samples=1, again=0), PromptConfig(2, 16), str(cache), False)

    def _ask(self, questions: Sequence[Question]) -> Answers:
        for question in questions:
            reply = question.video.instruction
            yield question, reply, self._keep(question, reply)

    def _questions(self, place: int, video: Video) -> Iterator[Question]:
        yield Question(video, self.shown, place, 0, 0, 0, cache_key(reply=video.instruction))


def test_what_the_parser_takes_passes_the_cache_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roboalign_core.files._sync", lambda path: None)
    rng, frames = np.random.default_rng(1), np.zeros((2, 16, 16, 3), np.uint8)
    texts = [damaged(INTACT[n % len(INTACT)], rng) for n in range(400)]
    videos = [Video(frames, text) for text in texts]
    asked = [0, 0]
    for again in (0, 1):
        judge, table = Echo(tmp_path), JudgementTable(tmp_path / "echo.parquet", {"run": again})
        for first in range(0, len(videos), 50):
            for places, opinion in opinions(judge, videos[first : first + 50]):
                if isinstance(opinion, Judgement):
                    table.add([first + place for place in places], opinion)
        asked[again] = judge.counts["asked"]
    assert asked == [len(set(texts)), 0], "neither those with scores nor those without are asked again"
    kept, read = table.finish(), read_judgements(table.path)
    assert 50 < len(read.numbers) < 350
    np.testing.assert_array_equal(read.judgement.scores.raw, kept.judgement.scores.raw)
    said = [texts[number] for number in read.numbers]
    expected = [text.encode("utf-8", "backslashreplace").decode() for text in said]
    assert [replies for (replies,) in read.judgement.replies] == expected != said


ADDED = ("{", "}", '"', "</think>", "NaN", ": 7,", "\x00", "```", "\\ud83d", "\ud83d", "<THINK>", "[/THINK]", "<|end|>")


def damaged(text: str, rng: np.random.Generator) -> str:
    """A reply after up to six changes: cut, doubled, shuffled, overwritten, other numbers."""
    for _ in range(rng.integers(1, 7)):
        first, last = sorted(int(place) for place in rng.integers(0, len(text) + 1, 2))
        last = min(last, first + int(rng.integers(1, 40)))
        part = text[first:last]
        kind = rng.integers(6)
        if kind == 0:
            part = ""
        elif kind == 1:
            part *= 2
        elif kind == 2:
            part = "".join(rng.permutation(list(part))) if part else ""
        elif kind == 3:
            part = "".join(chr(int(code)) for code in rng.integers(1, (0xD800, 0xE000)[rng.integers(2)], len(part)))
        elif kind == 4:
            part = re.sub(r"\d", lambda _: str(rng.choice([-1, 0, 0.5, 3, 9, 1e300])), part)
        else:
            part += ADDED[rng.integers(len(ADDED))]
        text = text[:first] + part + text[last:]
    return text


@settings(deadline=None, max_examples=100)
@given(st.dictionaries(st.sampled_from([*KEYS, "reasoning", "scores", "Contact Realism"]), VALUES))
@example({key: {"score": math.nan} for key in KEYS})
def test_any_object_gives_scores_or_one_error(value: dict[str, object]) -> None:
    scores_or_one_error(json.dumps(value))
    scores_or_one_error(repr(value))
    scores_or_one_error(json.dumps({**dict.fromkeys(KEYS, 1), **value}))


@pytest.mark.parametrize(
    "piece",
    ["{", '{"a":', "{'a':", '{"', "[{", "<think>", "</think>", "{}", "{}</think>", "{0:[", "{'a':-", "[THINK]{"],
)
def test_long_nonsense_takes_no_time(piece: str) -> None:
    began = time.process_time()
    scores_or_one_error(piece * (400_000 // len(piece)))
    assert time.process_time() - began < 5


@given(st.tuples(*(st.sampled_from([*range(int(most) + 1), 0.25, int(most) - 0.4]) for most in HIGHEST)), st.booleans())
def test_target_replies_say_what_they_are_made_from(scores: tuple[float, ...], thought_is_open: bool) -> None:
    text = target_reply(scores, thought_is_open)
    found = parse_reply(("<think>" if thought_is_open else "") + text)
    np.testing.assert_allclose(list(found.scores.values()), scores, atol=0.005)
    assert found.reasoning
    assert text.index("Instruction Following: ") < text.index('{"reasoning"')  # thought first
    for dimension, score in zip(DIMENSIONS, scores, strict=True):
        assert f"{dimension.title}: {dimension.steps[math.floor(score + 0.5)]} (" in text


def test_targets_out_of_range_are_refused() -> None:
    with pytest.raises(ReplyError, match=r"contact_realism: expected 0 to 1, found 1\.3"):
        target_reply((3, 2, 1, 1, 1.3, 2), False)


def test_the_reply_of_other_tests_is_one() -> None:
    assert tuple(parse_reply(reply(*SCORES)).scores.values()) == SCORES
