"""mlx-distill bundle"""

from __future__ import annotations

from pathlib import Path

import click

from mlx_distill.cli.options import backend_option, json_option, setting
from mlx_distill.cli.render import document, failure
from mlx_distill.errors import BundleError
from mlx_distill.observe.progress import amount

HERE = "this machine"
FOLDER = click.Path(path_type=Path)


@click.command()
@click.argument("places", metavar="RUN FILE", nargs=-1, type=FOLDER)
@click.option("--verify", is_flag=True, help="Read every byte of FILE, and name each part that is damaged, missing or additional.")
@click.option("--without-base", is_flag=True, help="Leave the base out: who opens it needs that very base in the cache, or its checkpoint.")
@click.option(
    "--with-wheels", "platform", metavar="[PLATFORM]", is_flag=False, flag_value=HERE,
    help="Add what a laptop without a network installs from, through pip; for another platform: macosx_14_0_arm64, for instance.",
)  # fmt: skip
@click.option("--python", metavar="VERSION", help="Of the laptop, for --with-wheels. Default: as here.")
@click.option("--find-links", metavar="FOLDER", type=FOLDER, help="Take the wheels from this folder, not from the network.")
@backend_option
@json_option
def command(
    places: tuple[Path, ...],
    verify: bool,
    without_base: bool,
    platform: str | None,
    python: str | None,
    find_links: Path | None,
    backend: str,
    as_json: bool,
) -> int:
    """Everything that a laptop without a network needs of a Run, in one file; `infer` takes it as it takes a Run.

    No text of a training row is in it. The same Run makes the same bytes.

    \b
    mlx-distill bundle runs/crisis crisis.bundle
    mlx-distill bundle runs/crisis crisis.bundle --with-wheels macosx_14_0_arm64
    mlx-distill bundle --verify crisis.bundle
    """
    from mlx_distill.workflows import bundling

    where = setting(as_json=as_json, backend=backend)
    _require(places, verify, without_base, platform, python, find_links)
    if verify:
        return _verified(bundling.verify(where, places[0]), as_json)
    wheels = bundling.Wheels(None if platform == HERE else platform, python, find_links) if platform else None
    made = bundling.bundle(where, *places, base=not without_base, wheels=wheels)
    there = "" if made["written"] else ", which was there already"
    document(made, as_json=as_json, lines=[f"{made['bundle']}: {made['bytes'] / 1e6:.1f} MB, {made['parts']} parts{there}"])
    return 0


def _verified(found: dict[str, object], as_json: bool) -> int:
    faults = found["faults"]
    assert isinstance(faults, list)
    if not faults:
        document(found, as_json=as_json, lines=[f"{found['bundle']}: sound, every byte of {found['parts']} parts"])
        return 0
    listed = "".join(f"\n  {fault['part']}: {fault['what']}" for fault in faults)
    error = BundleError(f"{amount(len(faults), 'faults')}:{listed}", hint="copy the bundle again", file=str(found["bundle"]))
    return failure(error, as_json=as_json, beside=found)


def _require(
    places: tuple[Path, ...], verify: bool, without_base: bool, platform: str | None, python: str | None, links: Path | None
) -> None:
    """Options that belong together. Raises UsageError."""
    if not places:
        raise click.UsageError("--verify needs a FILE" if verify else "a RUN and the FILE to be made of it are missing; or --verify FILE")
    if verify and (without_base or platform or python or links):
        raise click.UsageError("--verify takes a FILE and no other option")
    if (python or links) and not platform:
        raise click.UsageError("--python and --find-links are for --with-wheels")
    if len(places) != (1 if verify else 2):
        what = "--verify takes one FILE" if verify else "name a RUN and a FILE (--with-wheels takes the word behind it as PLATFORM)"
        raise click.UsageError(f"{what}; got {len(places)}")
