import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as reference
from tensorboard.summary.writer import record_writer
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from vbp_lightning.callbacks.event_checksum import masked_crc32c, use_fast_event_checksums


@pytest.mark.parametrize("length", [0, 1, 8, 8193, 100_003])
def test_checksums_are_those_of_tensorboard(length):
    data = np.random.default_rng(length).bytes(length)
    assert masked_crc32c(data) == reference(data)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_constant_data(byte):
    assert masked_crc32c(bytes([byte]) * 20_000) == reference(bytes([byte]) * 20_000)


def test_tensorboard_writes_files_that_it_can_read(tmp_path, monkeypatch):
    monkeypatch.setattr(record_writer, "masked_crc32c", record_writer.masked_crc32c)
    use_fast_event_checksums()
    assert record_writer.masked_crc32c is masked_crc32c
    writer = EventFileWriter(str(tmp_path))
    payload = np.random.default_rng(0).bytes(50_000)
    event = Event(step=3)
    event.summary.value.add(tag="image").image.encoded_image_string = payload
    writer.add_event(event)
    writer.close()
    loader = RawEventFileLoader(str(next(tmp_path.iterdir())))
    events = [Event.FromString(raw) for raw in loader.Load()]
    assert events[-1].summary.value[0].image.encoded_image_string == payload
