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
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)  # pyright: ignore[reportAttributeAccessIssue]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = [chr(code) for code in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(sorted(texts), trainer)
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return TextTokenizer(backend, max_length=max_length, pad_id=SPECIAL.index("[PAD]"))
