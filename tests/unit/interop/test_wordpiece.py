"""A vocabulary trained on texts: the same one each time, with every character and frequent words."""

from erel_jax.interop.wordpiece import SPECIAL, train_wordpiece

TEXTS = [
    f"{color} {shape} Größe {n}" for color in ("red", "green", "blue") for shape in ("square", "bar") for n in range(24)
]


def test_equal_texts_give_equal_tokenizers_in_any_order():
    found = {train_wordpiece(texts, vocabulary=160).to_json() for texts in (TEXTS, TEXTS[::-1], TEXTS, TEXTS, TEXTS)}
    assert len(found) == 1


def test_words_and_characters_are_known():
    tokenizer = train_wordpiece(TEXTS, vocabulary=250)
    vocabulary = tokenizer.backend.get_vocab()
    assert [vocabulary[name] for name in SPECIAL] == [0, 1, 2, 3] and tokenizer.vocabulary == len(vocabulary) <= 250
    encoded = tokenizer.backend.encode("Green square 7 qr ##r")
    assert encoded.tokens[:4] == ["[CLS]", "green", "square", "7"] and encoded.tokens[-1] == "[SEP]"
    assert encoded.tokens[4:6] == ["q", "##r"] and encoded.tokens[6:9] == ["#", "#", "r"]
    assert tokenizer.end_id == 3 and tokenizer.pad_id == 0
