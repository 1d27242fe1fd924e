"""What TensorBoard's files of a run hold."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # generated, without types


def events(directory: Path, stage: str) -> list[Event]:
    """Events of ``stage``, read from the TFRecord format: length, checksum, data, checksum."""
    found = []
    for path in sorted((directory / "tensorboard" / stage).iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event()
            event.ParseFromString(data[place + 12 : place + 12 + length])
            found.append(event)
            place += 12 + length + 4
    return found
