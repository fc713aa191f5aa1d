"""Parquet files that roll over by size, as the format numbers them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.vla.lerobot.info import place

MEGABYTE = 1024**2


class RollingFiles:
    """Writes one table after the other, each a row group, and a new file where one is full."""

    def __init__(
        self,
        folder: Path,
        template: str,
        schema: pa.Schema,
        *,
        megabytes: float,
        files_in_chunk: int,
        plain: tuple[str, ...] = (),
    ) -> None:
        """Files of one template.

        Args:
            folder: of the dataset.
            template: path with `chunk_index` and `file_index`.
            schema: of all tables.
            megabytes: at which a file is full.
            files_in_chunk: how many files lie in one folder.
            plain: columns that are not worth a dictionary, such as pictures.
        """
        self.folder, self.template, self.schema = folder, template, schema
        self.limit, self.files_in_chunk = megabytes * MEGABYTE, files_in_chunk
        self.dictionaries = [name for name in schema.names if name not in plain]
        self.number = 0
        self._sink: pa.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def chunk(self) -> int:
        """Number of the folder that the next table goes to."""
        return self.number // self.files_in_chunk

    @property
    def file(self) -> int:
        """Number of the file within its folder."""
        return self.number % self.files_in_chunk

    def make_room(self, size: int) -> None:
        """Begin a new file where some bytes more would fill this one."""
        if self._sink is not None and self._sink.tell() + size >= self.limit:
            self.close()
            self.number += 1

    def write(self, table: pa.Table) -> None:
        """Add one row group."""
        if self._writer is None:
            path = place(self.folder, self.template, chunk_index=self.chunk, file_index=self.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = pa.OSFile(str(path), "wb")
            self._writer = pq.ParquetWriter(
                self._sink, self.schema, compression="snappy", use_dictionary=self.dictionaries
            )
        self._writer.write_table(table, row_group_size=max(len(table), 1))

    def close(self) -> None:
        """End the file at hand."""
        if self._writer is not None and self._sink is not None:
            self._writer.close()
            self._sink.close()
        self._writer = self._sink = None
