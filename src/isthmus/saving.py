"""A loaded bridge → a folder of its own, or a repository on the Hub."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from isthmus.build.pretrained import Pretrained, save_bridges
from isthmus.build.upload import upload_folder


class Saving:
    """What every object that holds a loaded bridge can do with it."""

    _pretrained: Pretrained

    def save_pretrained(self, folder: str | Path, *, licence: str | None = None) -> None:
        """Write the bridge with its tokenizer and a model card; of both stages, into `stage1` and `stage2` below.

        The towers stay where they are. `licence` is yours to choose for the bridge, by its identifier on the Hub.
        Raises `CheckpointError` where the place cannot be written, or holds what is no model folder.
        """
        save_bridges(self._pretrained.bridges, Path(folder).expanduser(), licence=licence)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = False,
        licence: str | None = None,
        message: str = "A bridge trained with isthmus",
        upload: Callable[..., str] = upload_folder,
    ) -> str:
        """Write what `save_pretrained` writes into a repository of the Hub (`owner/name`); returns its address.

        The towers stay where they are: the folder names them. `upload` puts a folder into a repository.
        Raises `UserError` where the Hub cannot be reached, knows nobody, or refuses.
        """
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / "bridge"
            self.save_pretrained(folder, licence=licence)
            return upload(folder, repository, private=private, message=message)
