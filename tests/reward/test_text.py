"""Instructions: words, ids, embeddings."""

from __future__ import annotations

import zlib

import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.config import TextConfig
from roboalign_core.reward.text import TextEncoder, tokenise, word_ids, words

CONFIG = TextConfig(width=16, layers=2, heads=2, expansion=2, words=10, buckets=512)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextEncoder(CONFIG).eval()


def embed(encoder: TextEncoder, *instructions: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = encoder(tokenise(instructions, CONFIG))
    return found


def test_words_and_marks_without_regard_to_case() -> None:
    assert " ".join(words("Push the Red-cube to  (0.5)!")) == "push the red - cube to ( 0 . 5 ) !"
    assert words("ＰＵＳＨ Straße") == ["push", "strasse"]


def test_ids_are_the_same_everywhere() -> None:
    ids = word_ids("red", 512)
    parts = ["red", "<re", "red", "ed>", "<red", "red>"]
    assert ids == [1 + zlib.crc32(part.encode()) % 512 for part in parts]
    assert word_ids("a", 512) == [1 + zlib.crc32(part.encode()) % 512 for part in ("a", "<a>")]


def test_a_word_that_was_never_seen_shares_letters_with_others() -> None:
    known, new, other = (set(word_ids(word, 4096)) for word in ("pushing", "pushed", "cylinder"))
    assert len(known & new) >= 5
    assert len(known & other) <= 1


def test_padding_changes_nothing(encoder: TextEncoder) -> None:
    alone = embed(encoder, "push the cube")
    beside = embed(encoder, "push the cube", "push the extraordinarily blue cylinder to the left of it")
    assert alone.shape == (1, 16)
    torch.testing.assert_close(beside[:1], alone, atol=1e-5, rtol=1e-5)


def test_order_and_every_word_matter(encoder: TextEncoder) -> None:
    texts = ["red cube left of blue", "blue cube left of red", "red cube left of green", "red cube left"]
    found = embed(encoder, *texts)
    distances = torch.cdist(found, found) + torch.eye(4)
    assert distances.min() > 1e-3
    torch.testing.assert_close(embed(encoder, "RED cube  left"), found[3:], atol=1e-5, rtol=1e-5)


def test_the_gradient_reaches_every_part() -> None:
    encoder = TextEncoder(CONFIG)
    encoder(tokenise(["push the cube left", "reach it"], CONFIG)).square().sum().backward()
    missing = [name for name, value in encoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert missing in ([], ["start"])  # the first token may cancel in its layer norm, never more
    assert not encoder.table.weight.grad[0].any()  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "  ", None, 3])
def test_no_sentence_is_refused(text: object) -> None:
    with pytest.raises(RoboAlignError, match="instruction: expected a sentence, found"):
        words(text)  # type: ignore[arg-type]


def test_a_long_instruction_is_refused_rather_than_cut() -> None:
    with pytest.raises(RoboAlignError, match="expected at most 10 words, found 11"):
        tokenise(["push", "one two three four five six seven eight nine ten eleven"], CONFIG)
