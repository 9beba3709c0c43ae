"""Images with labels, as plain NumPy arrays."""

import dataclasses
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled image dataset in memory, split into training and test examples.

    Attributes:
        name: What the dataset is called.
        train_images: `[n, h, w, c]`, uint8 or float32, as stored.
        train_labels: `[n]` int32, in `range(classes)`.
        test_images: `[m, h, w, c]`.
        test_labels: `[m]` int32.
        classes: Number of classes.
        scale: Largest possible pixel value; pixels are divided by it first.
        mean: Mean of every channel after the division.
        std: Standard deviation of every channel after the division.

    Examples:
        >>> from jaxfuse.data.digits import load_digits
        >>> digits = load_digits()
        >>> digits.input_shape, digits.classes
        ((8, 8, 1), 10)
        >>> images, labels = digits.train()
        >>> images.shape, str(images.dtype)
        ((1437, 8, 8, 1), 'float32')
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.ndim != 4 or labels.shape != images.shape[:1]:
                raise ValueError(
                    f"{part} images must be [n, h, w, c] with labels [n], got {images.shape} and "
                    f"{labels.shape}"
                )
        if not len(self.mean) == len(self.std) == self.train_images.shape[-1]:
            raise ValueError(
                f"mean and std must have one number a channel ({self.train_images.shape[-1]}), got "
                f"{self.mean} and {self.std}"
            )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape `(h, w, c)` of one image."""
        _, height, width, channels = self.train_images.shape
        return height, width, channels

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Divide by the scale, subtract the mean, divide by the standard deviation.

        Args:
            images: `[..., h, w, c]` as stored.

        Returns:
            float32 array of the same shape.
        """
        factor = np.float32(1) / (np.float32(self.scale) * np.asarray(self.std, np.float32))
        offset = np.asarray(self.mean, np.float32) / np.asarray(self.std, np.float32)
        normalised = images.astype(np.float32)
        normalised *= factor
        normalised -= offset
        return normalised

    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Return normalised training images `[n, h, w, c]` float32 and labels `[n]` int32."""
        return self.normalise(self.train_images), self.train_labels

    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Return normalised test images `[m, h, w, c]` float32 and labels `[m]` int32."""
        return self.normalise(self.test_images), self.test_labels

    def subset(self, train_indices: np.ndarray) -> Self:
        """Keep only some training examples; test examples and normalisation stay the same.

        Args:
            train_indices: `[k]` integer indices, as a partition returns them.

        Returns:
            The smaller dataset.

        Examples:
            >>> from jaxfuse.data.digits import load_digits
            >>> load_digits().subset(np.arange(100)).train_labels.shape
            (100,)
        """
        return dataclasses.replace(
            self,
            train_images=self.train_images[train_indices],
            train_labels=self.train_labels[train_indices],
        )


def channel_statistics(
    images: np.ndarray, scale: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measure the mean and the standard deviation of every channel.

    Args:
        images: `[n, h, w, c]` as stored.
        scale: Largest possible pixel value.

    Returns:
        `(mean, std)` of `images / scale`, one number a channel. A constant channel gets standard
        deviation one, so that normalising it gives zeros.

    Examples:
        >>> channel_statistics(np.full((2, 4, 4, 1), 51, np.uint8), 255.0)
        ((0.2,), (1.0,))
    """
    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(axis=0, dtype=np.float64) / scale
    std = pixels.std(axis=0, dtype=np.float64) / scale
    std = np.where(std == 0, 1.0, std)
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())
