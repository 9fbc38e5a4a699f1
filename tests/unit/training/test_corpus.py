"""The corpus is the standard library's text, and no two parts of it share any."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.corpus import RECORD_CHARACTERS, Corpus, CorpusError, Domain, load_corpus


def _paragraphs(texts: tuple[str, ...]) -> set[str]:
    """Whole paragraphs long enough to be telling."""
    paragraphs = (p.strip() for text in texts for p in text.split("\n\n"))
    return {" ".join(p.split()) for p in paragraphs if len(p) > 60}


def test_the_corpus_is_the_same_every_time(corpus: Corpus) -> None:
    assert load_corpus().digest == corpus.digest


def test_every_part_has_enough_text_to_train_on(corpus: Corpus) -> None:
    assert sum(map(len, corpus.base)) > 3_000_000
    assert len(corpus.dialogues) > 300
    for domain in corpus.domains:
        assert len(domain.train) > 1000
        assert len(domain.held_out) > 20


def test_no_held_out_paragraph_is_trained_on_anywhere(corpus: Corpus) -> None:
    trained_on = _paragraphs(corpus.base).union(*(_paragraphs(d.train) for d in corpus.domains))
    for domain in corpus.domains:
        # The first and last paragraph of a text may be cut short, so only whole ones are compared.
        assert not _paragraphs(domain.held_out) & trained_on
        assert _paragraphs(domain.train) & trained_on  # the comparison does find what is shared


def test_the_domains_are_disjoint(corpus: Corpus) -> None:
    def everything(domain: Domain) -> set[str]:
        return _paragraphs(domain.train) | _paragraphs(domain.held_out)

    assert not everything(corpus.mail) & everything(corpus.manual)
    assert not everything(corpus.mail) & _paragraphs(corpus.base)


def test_no_record_is_longer_than_the_unit_of_privacy(corpus: Corpus) -> None:
    assert max(len(r) for domain in corpus.domains for r in domain.train) <= RECORD_CHARACTERS


def test_a_folder_without_the_library_is_refused_with_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"found 0 modules.*apt install"):
        load_corpus(tmp_path)
