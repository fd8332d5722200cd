"""Prompts: fixed words around every text before it becomes tokens.

Many embedding models were trained with an instruction before the text; a decoder can be asked to sum a text up in its
next token, whose state is then read with pooling "last" (`This sentence: "{text}" means in one word:"`). A prompt
belongs to the tokenizer, not to the encoder: it changes the ids alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from erel_jax.errors import ConfigError, suggest

PLACE = "{text}"
_OWN = "given"


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Named prompts and the one that is used unless another is asked for.

    Attributes:
        templates: name to template, which has `{text}` once, where the text goes.
        default: name of the template in use, None for none.

    Raises:
        ConfigError: a template without exactly one place for the text, or a default that is no template.
    """

    templates: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    def __post_init__(self):
        for name, template in self.templates.items():
            if not isinstance(template, str) or template.count(PLACE) != 1:
                raise ConfigError(f"prompt {name!r} is {template!r}, expected a text with {PLACE} once.")
        if self.default is not None and self.default not in self.templates:
            raise ConfigError(f"the default prompt {self.default!r} is none of the prompts {sorted(self.templates)}.")

    def choose(self, prompt: str) -> "Prompts":
        """The same prompts with another default.

        Args:
            prompt: a name, a template of its own (it has `{text}`), or "" for no prompt.

        Raises:
            ConfigError: neither a name nor a template.
        """
        if not prompt:
            return replace(self, default=None)
        if prompt in self.templates:
            return replace(self, default=prompt)
        if PLACE in prompt:
            return Prompts(templates={**self.templates, _OWN: prompt}, default=_OWN)
        known = suggest(prompt, self.templates) or "The model has none of its own."
        raise ConfigError(f"got the prompt {prompt!r}, expected a name or a text with {PLACE} in it. {known}")

    @property
    def around(self) -> tuple[str, str]:
        """What the default puts before and after a text."""
        if self.default is None:
            return "", ""
        before, _, after = self.templates[self.default].partition(PLACE)
        return before, after
