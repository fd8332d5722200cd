"""Training a small WordPiece tokenizer, for encoders that are trained from nothing."""

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from erel_jax.interop.tokenizer import TextTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def train_wordpiece(texts: Sequence[str], *, vocabulary: int, max_length: int = 64) -> TextTokenizer:
    """A lower-casing WordPiece tokenizer in BERT's layout.

    Args:
        texts: what it is trained on.
        vocabulary: most entries, special tokens and single characters included.
        max_length: longest text in tokens.

    Returns:
        A tokenizer that puts `[CLS]` before and `[SEP]` after each text; `[PAD]` has id 0. The same texts give the
        same tokenizer.
    """
    backend = _untrained(models.WordPiece(unk_token="[UNK]"))
    texts = sorted(texts)
    # The trainer numbers single continuing characters in the order of a hash map, which differs from call to call, and
    # breaks ties between pieces by these numbers. Listed beforehand, they have a fixed one.
    continuing = sorted({f"##{c}" for text in texts for word in _words(backend, text) for c in word[1:]})
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary,
        special_tokens=[*SPECIAL, *continuing],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    trained = _untrained(models.WordPiece(backend.get_vocab(), unk_token="[UNK]"))
    trained.add_special_tokens(SPECIAL)
    trained.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]",
        special_tokens=[(name, trained.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return TextTokenizer(trained, max_length=max_length, pad_id=SPECIAL.index("[PAD]"))


def _untrained(model: models.WordPiece) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    return backend


def _words(backend: Tokenizer, text: str) -> list[str]:
    normal = backend.normalizer.normalize_str(text)
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
