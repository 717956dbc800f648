"""The Hugging Face hub's mixin, with the name of the class in `config.json` so that any folder says what it holds."""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin

__all__ = ["HubModel"]


class HubModel(PyTorchModelHubMixin, library_name="kdinpaint", tags=["image-inpainting"]):
    """Base of the networks: `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    def configuration(self) -> dict[str, Any]:
        """What `config.json` holds: the name of the class and its constructor arguments."""
        arguments: dict[str, Any] = self._hub_mixin_config  # type: ignore[assignment]
        kept = {name: value for name, value in arguments.items() if name not in ("device", "dtype")}
        return {"model": type(self).__name__, **kept}

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:  # noqa: ANN401
        """Write weights, configuration and model card to a folder; options are the mixin's."""
        return super().save_pretrained(save_directory, **{"config": self.configuration(), **options})
