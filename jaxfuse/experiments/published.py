"""What the papers report, to stand beside what is measured."""

from types import MappingProxyType

from jaxfuse.experiments.summary import markdown_table

_HEAD = ("setting", "parents", "ensemble", "plain average", "OTFusion", "GAMF")
# GAMF (Liu et al., ICML 2022), tables 1 and 2, at full width on CIFAR-10's test set.
_LENET = (
    ("homogeneous 2, one shot", "61.32 62.64", "67.28", "16.85", "39.04", "49.79"),
    ("homogeneous 2, finetuned", "61.46 62.94", "-", "62.53", "63.67", "65.37"),
    ("heterogeneous 2, one shot", "58.81 60.70", "67.31", "17.52", "32.00", "47.91"),
    ("heterogeneous 2, finetuned", "63.44 63.79", "-", "58.73", "62.29", "64.15"),
    ("homogeneous 4, one shot", "61.32 62.64 63.03 61.58", "68.97", "13.21", "14.13", "33.51"),
    ("homogeneous 4, finetuned", "62.02 61.28 62.34 61.55", "-", "64.59", "64.90", "66.35"),
    ("heterogeneous 4, one shot", "56.94 54.15 57.55 59.00", "67.81", "12.43", "27.10", "41.25"),
    ("heterogeneous 4, finetuned", "63.58 61.72 62.98 63.79", "-", "59.1", "63.63", "64.33"),
)
_VGG11 = (
    ("homogeneous 2, one shot", "90.31 90.50", "91.34", "17.01", "85.98", "87.02"),
    ("homogeneous 2, finetuned", "90.29 90.53", "-", "90.41", "90.68", "90.75"),
    ("heterogeneous 2, one shot", "69.29 71.89", "75.46", "9.84", "9.87", "36.73"),
    ("heterogeneous 2, finetuned", "71.37 75.96", "-", "60.34", "62.08", "79.40"),
    ("homogeneous 4, one shot", "90.31 90.50 90.47 90.56", "91.91", "9.99", "73.56", "73.42"),
    ("homogeneous 4, finetuned", "90.29 90.53 90.45 90.55", "-", "69.33", "90.89", "90.87"),
    ("heterogeneous 4, one shot", "73.88 70.73 72.50 71.53", "79.87", "9.24", "9.99", "12.35"),
    ("heterogeneous 4, finetuned", "76.76 75.96 77.25 75.24", "-", "43.63", "48.21", "50.54"),
)
# Figure 3, read off the plot to about half a point.
_MNIST = (
    ("homogeneous, at one half", "94.8 95.1", "-", "70.0", "90.9", "about 94.4 (least of all)"),
    ("heterogeneous, at 0.3", "83.2 87.6", "87.8", "71.7", "86.7", "91.0"),
    ("heterogeneous, at one half", "83.2 87.6", "86.3", "62.3", "84.3", "85.0"),
)
# Figure 4, read off the plot.
_SIMILARITY = (
    ("first-order similarity", "3.3 to 13", "37 to 90"),
    ("second-order similarity", "3.4 to 10", "52 to 91"),
)
# Table 4: hours of federated learning on CIFAR-10, 5 and 10 clients.
_TIME = (
    ("OTFusion", "3.83", "11.96"),
    ("GAMF", "5.28", "18.05"),
)
# Figure 5, read off the plot, CIFAR-10 after 55 rounds of 5 and 10 clients, and table 5, of 10, 16
# and 20; VGG11.
_FEDERATION = (
    ("FedAvg", "81.5", "70", "69.99 ± 0.40", "68.27 ± 0.46", "65.70 ± 0.50"),
    ("MOON", "82.7", "73", "72.42 ± 0.45", "71.69 ± 0.28", "69.88 ± 0.19"),
    ("FedMA", "81.5", "70", "-", "-", "-"),
    ("OTFusion", "70", "47.5", "-", "-", "-"),
    ("GAMF", "83", "71.5", "72.39 ± 0.54", "71.94 ± 0.55", "71.37 ± 0.36"),
    ("GAMF + MOON", "85.2", "73", "73.43 ± 0.59", "72.07 ± 0.47", "71.21 ± 0.31"),
)
PUBLISHED = MappingProxyType(
    {
        "federation": (
            "Published: GAMF, figure 5 (read off the plot) and table 5, VGG11 on CIFAR-10",
            ("method", "5, figure", "10, figure", "10, table", "16, table", "20, table"),
            _FEDERATION,
        ),
        "mnist": ("Published: GAMF, figure 3 (read off the plot)", _HEAD, _MNIST),
        "lenet": ("Published: GAMF, table 1", _HEAD, _LENET),
        "vgg11": ("Published: GAMF, table 2 (full width)", _HEAD, _VGG11),
        "het4": (
            "Published: GAMF, the rows of four heterogeneous networks in tables 1 and 2",
            _HEAD,
            tuple(
                (f"{model}: {row[0]}", *row[1:])
                for model, rows in (("LeNet", _LENET), ("VGG11", _VGG11))
                for row in rows[-2:]
            ),
        ),
        "similarity": (
            "Published: GAMF, figure 4 (read off the plot; VGG11)",
            ("similarity", "its range", "accuracy %"),
            _SIMILARITY,
        ),
        "time": (
            "Published: GAMF, table 4, hours of a federated run on CIFAR-10",
            ("method", "5 clients", "10 clients"),
            _TIME,
        ),
    }
)
"""By the name of the table: title, head and rows."""


def published_lines(name: str) -> list[str]:
    """Return the published figures of a table as Markdown, or nothing where there are none."""
    if name not in PUBLISHED:
        return []
    title, head, rows = PUBLISHED[name]
    return [f"### {title}", markdown_table(head, rows)]
