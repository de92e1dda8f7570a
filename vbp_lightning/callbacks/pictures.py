"""Pictures in the loggers of a trainer."""

import io

from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.summary_pb2 import Summary


def log_picture(logger: Logger, tag: str, png: bytes, step: int) -> None:
    """Logs a picture to a logger that takes pictures; others are left as they are.

    Args:
        logger: Of TensorBoard, Weights & Biases, MLflow or another one.
        tag: Name of the picture, with ``/`` between its parts.
        png: The encoded picture, RGB.
        step: Place on the x axis.
    """
    picture = Image.open(io.BytesIO(png))
    if isinstance(logger, TensorBoardLogger):
        # add_image would compress the picture a second time
        image = Summary.Image(
            width=picture.width, height=picture.height, colorspace=3, encoded_image_string=png
        )
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        logger.experiment._get_file_writer().add_summary(summary, step)
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [picture], step)
    elif isinstance(logger, MLFlowLogger) and logger.run_id is not None:
        logger.experiment.log_image(logger.run_id, picture, key=tag, step=step)
