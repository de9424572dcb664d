"""What people see of a benchmark: the computer, the figures beside their floors, and where the time goes."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lateack.cluster.bench.figures import Bench, Compared, Figures, Share

NAMED = 3  # of the places where time goes


def print_bench(out: Console, bench: Bench) -> None:
    """Print everything that was found."""
    _print_machine(out, bench)
    if bench.virtual:
        _print_compared(out, "virtual world", bench.virtual)
    if bench.ray:
        _print_compared(out, "live world on Ray", bench.ray)
        _print_live_costs(out, bench.ray)
    _print_commands(out, bench)
    out.print(Text("\nwhere the time goes", style="bold"))
    for name, places in bench.busiest.items():
        out.print(f"  {name:<16} {_places(places)}", soft_wrap=True)
    if bench.machine["machines"] == "interpreted":
        out.print(
            Text("\nThe machines ran interpreted; `make bench` compiles them first and measures that.", style="dim")
        )


def _print_machine(out: Console, bench: Bench) -> None:
    machine = bench.machine
    load = machine["load_average"]
    assert isinstance(load, tuple)
    out.print(
        f"{machine['cores']} cores ({machine['processor']}), {machine['python']}, machines {machine['machines']}, "
        f"{machine['system']}, "
        f"load average {' '.join(f'{value:.2f}' for value in load)}",
        soft_wrap=True,
    )


def _print_compared(out: Console, title: str, figures: Figures) -> None:
    out.print(Text(f"\n{title}", style="bold"))
    table = _table("figure", "ours", "bare floor", "ratio", "unit")
    for figure in figures.values():
        ours, floor = figure.ours, figure.floor
        table.add_row(ours.what, number(ours.value), number(floor.value), _ratio(figure.ratio), ours.unit)
        table.add_row(Text(f"  floor: {floor.what}", style="dim"))
    out.print(table)


def _print_live_costs(out: Console, figures: Figures) -> None:
    out.print()
    keys = ("cpu_us_per_request", "floor_cpu_us_per_request")
    machines = list(_numbers(next(iter(figures.values())), keys[0]))
    table = _table("processor time per request, us", *machines, "all", "requests/s", "MB/s")
    for name, figure in figures.items():
        rates = (figure.ours.value, figure.floor.value)
        bytes_each = _number(figure, "mb_per_s") / figure.ours.value
        for key, what, rate in zip(keys, ("ours", "bare floor"), rates, strict=True):
            spent = _numbers(figure, key)
            numbers = [*(spent[machine] for machine in machines), sum(spent.values()), rate, rate * bytes_each]
            table.add_row(f"{name}: {what}", *map(number, numbers))
    out.print(table)


def _print_commands(out: Console, bench: Bench) -> None:
    out.print(Text("\nfrom command to end", style="bold"))
    table = _table("command", "seconds")
    for timed in bench.commands.values():
        table.add_row(timed.what, f"{timed.value:.2f}")
    out.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place and heading != "unit" else "left", no_wrap=place > 0)
    return table


def _places(places: list[Share]) -> str:
    return ", ".join(f"{place.where} {place.share:.0%}" for place in places[:NAMED])


def number(value: float) -> str:
    """Return a number with three figures that count, thousands apart."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"1/{1 / value:,.0f}"


def _number(figure: Compared, key: str) -> float:
    value = figure.about[key]
    assert isinstance(value, int | float)
    return value


def _numbers(figure: Compared, key: str) -> dict[str, float]:
    value = figure.about[key]
    assert isinstance(value, dict)
    return value
