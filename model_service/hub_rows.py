"""Reads a data set of the Hugging Face hub for whoever has no `datasets` loaded: `python -m model_service.hub_rows`.

    argv    name, --split, --subset
    stdout  {"columns": [...], "total": 231657 or null, "licence": "mit" or null}
    stdin   ["Joke"]                                 the columns that are wanted
    stdout  ["Why did the ..."]                      a line for each row, as the data set is streamed
            {"end": 231657}                          or, at any time, {"error": "a sentence"}

Nothing is downloaded whole, and no code of the data set is run.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

MAX_REASON = 400
PAGE_LIMIT_S = 10.0


class NotReadable(Exception):
    """The data set cannot be read; the message is the sentence."""


def main() -> int:
    """Speak the protocol above; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--split", required=True)
    parser.add_argument("--subset")
    given = parser.parse_args()
    try:
        _serve(given.name, given.split, given.subset)
    except NotReadable as error:
        _say({"error": str(error)})
        return 1
    except BrokenPipeError:
        return 1
    return 0


def _serve(name: str, split: str, subset: str | None) -> None:
    try:
        import datasets
    except ImportError:
        raise NotReadable(
            "Data sets of the hub need the library datasets, which is not installed here:"
            " pip install 'punchline[service]'."
        ) from None
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    stated = _licence_of_page(name)
    try:
        dataset = datasets.load_dataset(name, subset, split=split, streaming=True)
        rows = iter(dataset)
        first = list(islice(rows, 1))
        columns = list(dataset.column_names or (first[0] if first else ()))
        licence = dataset.info.license or stated
        _say({"columns": columns, "total": _total(dataset, split), "licence": licence})
        wanted = json.loads(sys.stdin.readline() or "[]")
        num_rows = 0
        for row in chain(first, rows) if wanted else ():
            _say([_plain(row.get(column)) for column in wanted])
            num_rows += 1
    except (BrokenPipeError, json.JSONDecodeError):
        raise
    except Exception as error:  # a data set fails in as many ways as there are file formats and networks
        raise NotReadable(_reason(name, error)) from error
    _say({"end": num_rows})


def _total(dataset: Any, split: str) -> int | None:
    known = (dataset.info.splits or {}).get(split)
    return known.num_examples or None if known is not None else None


def _licence_of_page(name: str) -> str | None:
    """Return the licence that the data set's page names, or None where it cannot be known.

    It is asked for first, and once: the library would knock for half a minute at a hub that cannot be reached.
    Raises NotReadable then.
    """
    import huggingface_hub

    try:
        card = huggingface_hub.HfApi().dataset_info(name, timeout=PAGE_LIMIT_S).card_data
    except (
        Exception
    ) as error:  # a page that does not answer only costs its licence, which is then said to be not stated
        if _is_unreachable(error):
            raise NotReadable(
                f"The data set {name} cannot be read: the hub cannot be reached ({type(error).__name__})."
                " Check the network, or download the file elsewhere and import that."
            ) from error
        return None
    named = card.get("license") if card is not None else None
    licences = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return ", ".join(str(licence) for licence in licences if licence not in ("unknown", "other")) or None


def _is_unreachable(error: Exception) -> bool:
    """Whether nobody answered at all; the libraries under the hub's client each have their own name for it."""
    return any(kind.__name__ in ("ConnectError", "ConnectionError") for kind in type(error).__mro__)


def _plain(value: object) -> object:
    """Texts and numbers go through; what else a data set holds is no joke, and is not sent."""
    return value if isinstance(value, str | int | float | None) else {}


def _reason(name: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(_before_example(lines))[:MAX_REASON].rstrip(" .")
    advice = " Check the name and the network." if isinstance(error, OSError) else ""
    return f"The data set {name} cannot be read: {said or type(error).__name__}.{advice}"


def _before_example(lines: list[str]) -> Iterator[str]:
    """Drop the Python that the library offers as an example: here there are options."""
    for line in lines:
        if line.startswith(("Example of usage", "`load_dataset")):
            return
        yield line


def _say(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    if isinstance(message, dict):
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
