"""A plain PyTorch statement of the cached IISAN training step, written from its specification.

The published code (GAIR-Lab/IISAN, no license, no package) is not installable, so this stands in for it in speed
comparisons. It keeps the cost structure of the published step and nothing of its text: all thirteen hidden states of
each slot arrive as one tensor, every slot of the window is encoded (padding and duplicates too), the towers are
sequential modules, and the loss masks are built in a Python loop over users and positions and written user by user
into the logits that the gradient flows through. Automatic differentiation records each of these writes, and its
backward pass copies the whole gradient of the logits once per write: the cost of the published loss grows with the
cube of the batch. `masking="at_once"` forms the same mask first and applies it in one operation, which is how the step
would look after that one repair; both give the same loss and gradients.
"""

import torch
from torch import nn

TAPS = (0, 2, 4, 6, 8, 10, 12)


class SideBlock(nn.Module):
    """`x + W_up relu(W_down x)` with biases."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        for layer in (self.down, self.up):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(torch.relu(self.down(x)))


class ItemEncoder(nn.Module):
    """Two intra towers, one inter tower, affine heads and fusion: float[N, 13, D] twice → float[N, E]."""

    def __init__(self, width: int = 768, bottleneck: int = 64, embedding: int = 64):
        super().__init__()

        def tower() -> nn.ModuleList:
            return nn.ModuleList(SideBlock(width, bottleneck) for _ in TAPS)

        self.image, self.text, self.inter = tower(), tower(), tower()
        self.gates = nn.ParameterList([nn.Parameter(torch.zeros(len(TAPS))) for _ in range(3)])
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.second = nn.ModuleList(nn.Linear(width, embedding) for _ in range(3))
        self.fusion = nn.Linear(3 * embedding, embedding)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        s_image = torch.zeros_like(image[:, 0])
        s_text, s_inter = torch.zeros_like(text[:, 0]), torch.zeros_like(text[:, 0])
        for k, tap in enumerate(TAPS):
            g_image, g_text, g_inter = (torch.sigmoid(gate[k] / 0.1) for gate in self.gates)
            h_image, h_text = image[:, tap], text[:, tap]
            s_image = self.image[k](g_image * h_image + (1 - g_image) * s_image)
            s_text = self.text[k](g_text * h_text + (1 - g_text) * s_text)
            s_inter = self.inter[k](s_inter + g_inter * h_image + (1 - g_inter) * h_text)
        parts = [
            second(first(s))
            for first, second, s in zip(self.first, self.second, (s_image, s_text, s_inter), strict=True)
        ]
        return self.fusion(torch.cat(parts, dim=-1))


class UserBlock(nn.Module):
    """A post-norm SASRec block."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.dropout, self.heads = nn.Dropout(dropout), heads

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape

        def split(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, length, self.heads, -1).transpose(1, 2)

        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5 + mask
        mixed = (self.dropout(torch.softmax(scores, -1)) @ v).transpose(1, 2).reshape(batch, length, width)
        x = self.norm1(x + self.dropout(self.output(mixed)))
        return self.norm2(x + self.dropout(self.down(torch.relu(self.up(x)))))


class UserEncoder(nn.Module):
    """SASRec over item embeddings: float[B, L, E] → float[B, L, E]."""

    def __init__(self, width: int = 64, heads: int = 2, blocks: int = 2, length: int = 10, dropout: float = 0.1):
        super().__init__()
        self.position = nn.Parameter(torch.randn(length, width) * 0.1)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-6), nn.Dropout(dropout)
        self.blocks = nn.ModuleList(UserBlock(width, heads, dropout) for _ in range(blocks))

    def forward(self, items: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        length = items.shape[1]
        visible = torch.tril(torch.ones(length, length, dtype=torch.bool))[None] & real[:, None, :]
        mask = torch.where(visible[:, None], 0.0, -1e9)
        x = self.dropout(self.norm(items + self.position))
        for block in self.blocks:
            x = block(x, mask)
        return x


class CachedIisan(nn.Module):
    """The whole step up to the loss: hidden states of each slot in, mean debiased cross-entropy out.

    Args:
        width, bottleneck, embedding, dropout: as published by default.
        masking: "per_user" as published, or "at_once"; see the module docstring.
    """

    def __init__(
        self,
        width: int = 768,
        bottleneck: int = 64,
        embedding: int = 64,
        dropout: float = 0.1,
        masking: str = "per_user",
    ):
        super().__init__()
        self.items = ItemEncoder(width, bottleneck, embedding)
        self.users = UserEncoder(embedding, dropout=dropout)
        self.masking = masking

    def forward(
        self, windows: torch.Tensor, image: torch.Tensor, text: torch.Tensor, log_popularity: torch.Tensor
    ) -> torch.Tensor:
        """windows int64[B, L + 1] left padded with 0; image, text float[B, L + 1, 13, D]."""
        embeddings = self.items(image.flatten(0, 1), text.flatten(0, 1))
        return debiased_loss(self.users, embeddings, windows, log_popularity, self.masking)


def debiased_loss(
    users: UserEncoder,
    embeddings: torch.Tensor,
    windows: torch.Tensor,
    log_popularity: torch.Tensor,
    masking: str = "per_user",
) -> torch.Tensor:
    """The in-batch debiased cross-entropy of item embeddings float[B (L + 1), E] under windows int64[B, L + 1]."""
    batch, slots = windows.shape
    real = windows[:, :-1] != 0
    states = users(embeddings.view(batch, slots, -1)[:, :-1], real)
    ids = windows.flatten()
    logits = states.flatten(0, 1) @ embeddings.T - log_popularity[ids]
    logits = logits.view(batch, slots - 1, batch * slots)
    mask = _mask_at_once if masking == "at_once" else _mask_per_user
    logits = mask(logits, windows).flatten(0, 1)
    targets = torch.arange(batch)[:, None] * slots + torch.arange(1, slots)
    rows = real.flatten()
    return nn.functional.cross_entropy(logits[rows], targets.flatten()[rows])


def _excluded(windows: torch.Tensor, user: int) -> torch.Tensor:
    """bool[L, B(L + 1)], the candidates that are no negatives of a user, built position by position."""
    slots = windows.shape[1]
    ids = windows.flatten()
    own = (ids[None, :] == windows[user][:, None]).any(dim=0) | (ids == 0)
    excluded = own.repeat(slots - 1, 1)
    for position in range(slots - 1):
        excluded[position, user * slots + position + 1] = False
    return excluded


def _mask_per_user(logits: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    for user in range(len(windows)):
        logits[user][_excluded(windows, user)] = -1e4
    return logits


def _mask_at_once(logits: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    excluded = torch.stack([_excluded(windows, user) for user in range(len(windows))])
    return logits.masked_fill(excluded, -1e4)


class UncachedIisan(nn.Module):
    """The step that runs both frozen encoders at every slot, padding and duplicates included.

    Args:
        text, image: Hugging Face `BertModel` and `ViTModel`; frozen here. Every hidden state of every layer is kept
            whole until its first token is read, as published.
        side: side network, user encoder and loss.
    """

    def __init__(self, text: nn.Module, image: nn.Module, side: CachedIisan):
        super().__init__()
        self.text, self.image, self.side = text.eval().requires_grad_(False), image.eval().requires_grad_(False), side

    def forward(
        self,
        windows: torch.Tensor,
        pixels: torch.Tensor,
        ids: torch.Tensor,
        mask: torch.Tensor,
        log_popularity: torch.Tensor,
    ) -> torch.Tensor:
        """pixels [B, L + 1, 3, H, W]; ids and mask int64[B, L + 1, T]."""
        slots = windows.shape

        def first_tokens(encoder: nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
            states = encoder(**inputs, output_hidden_states=True).hidden_states
            return torch.stack([state[:, 0] for state in states], dim=1).float().unflatten(0, slots)

        image = first_tokens(self.image, pixel_values=pixels.flatten(0, 1))
        text = first_tokens(self.text, input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1))
        return self.side(windows, image, text, log_popularity)
