"""What was measured, as markdown."""

from __future__ import annotations

from . import profile, targets
from .results import Results, Sample

COLUMNS = (
    "",
    "downtime (least - most, hauls)",
    "÷ first",
    "total",
    "independent after",
    "on the wire",
    "CPU",
    "peak p.haul / service",
)
LEGEND = """\
Downtime is the longest time between two timestamps that the program in the container writes itself, about one each
millisecond: the median, the least and the most of so many hauls. After each haul the program has checked all its
memory, and its numbers have gone on without a gap; a haul of which that is not so is listed as failed. *÷ first* is
to the table's first figure. *Total* is the command's time; *independent* is when the copy at the target runs and
nothing of the source's is needed. *On the wire* is what the target's network interface carried, both ways; *CPU* is
that of all processes on both hosts. The script's, Docker's and Podman's copies go over a plain TCP connection,
P.Haul's over TLS. Both hosts' disks are memory.
"""


def markdown(results: Results) -> str:
    """The whole document."""
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items() if name not in ("date", "memory"))
    heading = f"{results.machine['date']}, {results.rounds} rounds; {machine}, {results.machine['memory']} of memory"
    parts = [f"# Hauls measured\n\n{heading}.\n\n{LEGEND}"]
    parts += [case_table(results, case) for case in results.cases()]
    parts += [channel(results), target_table(results), *profiles(results)]
    return "\n".join(parts)


def case_table(results: Results, case: str) -> str:
    """One case, a row for each rival."""
    rivals = results.rivals(case)
    base = next((found for rival in rivals if (found := results.downtime(case, rival)) is not None), None)
    rows = [row(results, case, rival, base) for rival in rivals]
    return f"## {results.words[case]}\n\n{grid(COLUMNS, rows)}"


def row(results: Results, case: str, rival: str, base: float | None) -> list[str]:
    good, errors = results.of(case, rival), results.errors(case, rival)
    name = results.words[rival]
    if not good:
        return [name, f"failed: {cell(errors[0])}", *[""] * (len(COLUMNS) - 2)]
    note = f", {len(errors)} failed: {cell(errors[0])}" if errors else ""
    downtime = results.downtime(case, rival) or 0.0
    times = [sample.downtime for sample in good]

    def middle(figure: str) -> float:
        return results.median(case, rival, lambda sample: float(getattr(sample, figure))) or 0.0

    return [
        name,
        f"{seconds(downtime)} ({seconds(min(times))} - {seconds(max(times))}, {len(times)}){note}",
        f"{downtime / base:.2f}" if base else "",
        seconds(middle("total")),
        seconds(middle("independent")),
        size(middle("wire")) if rival != "criu" else "-",
        f"{middle('cpu'):.2f} s",
        peaks(good),
    ]


def peaks(good: list[Sample]) -> str:
    source, target = (max(getattr(sample, which) for sample in good) for which in ("peak_source", "peak_target"))
    return f"{size(source)} / {size(target)}" if source else "-"


def channel(results: Results) -> str:
    if not results.channel:
        return f"1 GiB through P.Haul's own channel was not measured: {results.channel_error or 'not asked for'}.\n"
    middle = sorted(results.channel)[len(results.channel) // 2]
    return f"1 GiB of memory through P.Haul's own channel and nothing else: {seconds(middle)}.\n"


def target_table(results: Results) -> str:
    """Figure, target, met or not."""
    said = {True: "met", False: "**missed**", None: "not measured"}
    rows = [[target.words, target.measured, target.wanted, said[target.met]] for target in targets.all_of(results)]
    return f"## Targets\n\n{grid(('', 'measured', 'target', ''), rows)}"


def profiles(results: Results) -> list[str]:
    """Where the milliseconds of the smallest case go, of each of P.Haul's modes."""
    found = []
    for rival in results.rivals("16m"):
        typical = results.typical("16m", rival)
        if typical and typical.profile:
            sums = profile.by_account(typical.profile)
            shares = [[name, f"{spent * 1000:.1f} ms"] for name, spent in sums.items()]
            line = [
                [f"{mark.at * 1000:.1f} ms", cell(mark.what), mark.account] for mark in typical.profile if mark.what
            ]
            found.append(
                f"## Where the downtime goes: {results.words[rival]}, 16 MiB, {seconds(typical.downtime)}\n\n"
                f"{grid(('', 'time'), shares)}\n{grid(('at', 'what', 'account'), line)}"
            )
    return found


def grid(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [list(heads), ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cell(text: str) -> str:
    """Text that a table's cell can hold."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def size(count: float) -> str:
    mib = count / (1 << 20)
    return f"{mib:.1f} MiB" if mib < 1024 else f"{mib / 1024:.2f} GiB"
