"""The node's settings: one TOML file, ``kdseg-node.toml``, in the node's folder.

Every field is checked when the file is read; what is safe is checked by :mod:`KDSegmentatorLib.node.safety`. Paths are
relative to the node's folder. Secrets are never in the file: it names files that hold them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from KDSegmentatorLib.errors import InvalidSettingsError, KDSegmentatorError
from KDSegmentatorLib.options import RunOptions

SETTINGS_NAME = "kdseg-node.toml"
IMAGE_OUTPUTS = ("labels", "statistics", "overlay")
"""What is made of any scan; a record of the run always is."""

DICOM_OUTPUTS = ("seg", "labelmap", "rtstruct", "sr", "capture")
"""What can be made of a DICOM series only."""

Output: TypeAlias = Literal["labels", "statistics", "overlay", "seg", "labelmap", "rtstruct", "sr", "capture"]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Aet: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")
]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Tls(_Table, frozen=True, kw_only=True):
    """TLS of a connection: whom to believe, and who we are where the other side asks.

    Attributes:
        ca: PEM file of the certificates that may sign the other side's.
        certificate: our own, PEM; empty where the other side does not ask.
        key: of our own certificate, PEM, readable by the node's user only.
    """

    ca: str
    certificate: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.certificate) != bool(self.key):
            raise InvalidSettingsError("tls needs certificate and key together, or neither")


class Sender(_Table, frozen=True, kw_only=True):
    """Who may send scans: its AE title and its address."""

    aet: Aet
    host: str
    port: Port = 104


class Orthanc(_Table, frozen=True, kw_only=True):
    """The Orthanc beside the node, which receives from the PACS and the scanners.

    Attributes:
        url: of its REST interface, on this machine.
        user: of the REST interface.
        password: file.
        aet: AE title that senders call, and that we call targets with.
        port: for DICOM.
        stable_seconds: a series is taken when nothing came for so long.
        poll_seconds: between two looks at its changes.
        reconcile_seconds: between two looks at all of its series.
        tls: of the DICOM port; None without TLS.
        plain: whether scans may come over the network without TLS.
        sender: who may send.
        plugins: files of Orthanc's plugins, of which DICOMweb is needed.
    """

    url: str = "http://127.0.0.1:8042"
    user: str = "kdseg-node"
    password: str = "secrets/orthanc-password"  # noqa: S105 - the name of a file
    aet: Aet = "KDSEG"
    port: Port = 4242
    stable_seconds: Annotated[int, msgspec.Meta(ge=1)] = 60
    poll_seconds: Seconds = 5
    reconcile_seconds: Seconds = 60
    tls: Tls | None = None
    plain: bool = False
    sender: tuple[Sender, ...] = ()
    plugins: tuple[str, ...] = ("/usr/share/orthanc/plugins/libOrthancDicomWeb.so",)


class Watch(_Table, frozen=True, kw_only=True):
    """The watched folder.

    Attributes:
        folder: where scans are put.
        settled_seconds: a file or a sub-folder is taken when it did not change for so long.
        poll_seconds: between two looks.
    """

    folder: str = "in"
    settled_seconds: Seconds = 10
    poll_seconds: Seconds = 5


class FolderTarget(_Table, frozen=True, kw_only=True, tag_field="kind", tag="folder"):
    """A folder that results appear in, all files of a scan at once."""

    name: Name
    folder: str


class DicomTarget(_Table, frozen=True, kw_only=True, tag_field="kind", tag="dicom"):
    """A PACS that takes results by C-STORE.

    Attributes:
        name: for rules, status page and log.
        host: address.
        port: its DICOM port.
        aet: its AE title.
        calling_aet: ours; empty for that of Orthanc.
        tls: None without TLS.
        plain: whether results may go over the network without TLS.
        commitment: ask it, through Orthanc, to commit to keep what it took.
    """

    name: Name
    host: str
    port: Port
    aet: Aet
    calling_aet: str = ""
    tls: Tls | None = None
    plain: bool = False
    commitment: bool = False


class WebTarget(_Table, frozen=True, kw_only=True, tag_field="kind", tag="dicomweb"):
    """An archive that takes results by STOW-RS.

    Attributes:
        name: for rules, status page and log.
        url: of its DICOMweb service.
        user: empty without a password.
        password: file.
        tls: None for the certificates that the system believes.
    """

    name: Name
    url: str
    user: str = ""
    password: str = ""
    tls: Tls | None = None


Target: TypeAlias = FolderTarget | DicomTarget | WebTarget


class Rule(_Table, frozen=True, kw_only=True):
    """Which scans are segmented how, and where the results go.

    What a rule does not name, it does not ask for. An image file has no modality, description or body part that could
    contradict a rule; it has no calling AE title, so that a rule that names one is for DICOM from the network only.

    Attributes:
        name: for status page, log and the folders of results.
        task: family of packs, for example ``brain-t1``.
        size: empty for the recommended one.
        modality: for example ``MR``.
        calling_aet: who sent it.
        description: regular expression, found anywhere in the series description (of an image file: its name), in any
            case.
        body_part: as in Body Part Examined.
        least_images: series of fewer images are not meant, for example localisers.
        outputs: what is made.
        targets: names of the targets.
        priority: smaller is earlier.
        options: further fields of :class:`~KDSegmentatorLib.options.RunOptions`.
    """

    name: Name
    task: str
    size: str = ""
    modality: tuple[str, ...] = ()
    calling_aet: tuple[str, ...] = ()
    description: str = ""
    body_part: tuple[str, ...] = ()
    least_images: int = 1
    outputs: tuple[Output, ...] = ("seg", "labels", "statistics")
    targets: tuple[str, ...] = ()
    priority: int = 0
    options: RunOptions = RunOptions()

    def __post_init__(self) -> None:
        try:
            re.compile(self.description)
        except re.error as error:
            raise InvalidSettingsError(f"description {self.description!r} is no regular expression ({error})") from None

    def run_options(self) -> RunOptions:
        """Return how to segment.

        Raises:
            InvalidSettingsError: there is no such size.
        """
        return msgspec.structs.replace(self.options, size=self.size) if self.size else self.options


class Limits(_Table, frozen=True, kw_only=True):
    """What the node may use.

    Attributes:
        workers: processes that segment.
        free_gb: less free disk than this suspends the queue.
        used_percent: a fuller disk than this does, too.
        job_minutes: a job that takes longer is ended.
        memory_gb: a worker that takes more is ended, and its job fails; 0 for nine tenths of the machine's.
    """

    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    free_gb: Annotated[float, msgspec.Meta(ge=0)] = 5
    used_percent: Annotated[float, msgspec.Meta(gt=0, le=100)] = 95
    job_minutes: Seconds = 60
    memory_gb: Annotated[float, msgspec.Meta(ge=0)] = 0


class Delivering(_Table, frozen=True, kw_only=True):
    """How often a target is tried.

    Attributes:
        pauses: seconds after the first failure, the second, ...; the last one from then on.
        give_up_hours: after so long a delivery fails, and can be run again by hand.
        timeout_seconds: for a target to answer.
    """

    pauses: Annotated[tuple[Seconds, ...], msgspec.Meta(min_length=1)] = (60, 120, 300, 1800, 3600)
    give_up_hours: Seconds = 72
    timeout_seconds: Seconds = 60


class Retention(_Table, frozen=True, kw_only=True):
    """How long the node keeps what it has done with. The audit log is kept for ever.

    Attributes:
        results_days: of the files in its own folder, and of the series in Orthanc.
        failed_days: of those that were refused or failed.
    """

    results_days: Seconds = 7
    failed_days: Seconds = 30


class Page(_Table, frozen=True, kw_only=True):
    """The status page, on 127.0.0.1 only; port 0 for none."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8105


class Settings(_Table, frozen=True, kw_only=True):
    """All of the file.

    Attributes:
        rule: the rules; every rule that fits a scan makes a job.
        target: where results go.
        watch: the watched folder; None for none.
        orthanc: None without PACS.
        packs: folder of the node's own packs; those that came with KDSegmentator are there as well.
        limits: what may be used.
        delivery: how often a target is tried.
        retention: how long things are kept.
        page: the status page.
    """

    rule: tuple[Rule, ...] = ()
    target: tuple[Target, ...] = ()
    watch: Watch | None = None
    orthanc: Orthanc | None = None
    packs: str = "packs"
    limits: Limits = Limits()
    delivery: Delivering = Delivering()
    retention: Retention = Retention()
    page: Page = Page()

    def __post_init__(self) -> None:
        for what, names in (
            ("rule", [rule.name for rule in self.rule]),
            ("target", [target.name for target in self.target]),
        ):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise InvalidSettingsError(f"two of the [[{what}]] are called {twice!r}; give each a name of its own")
        known = {target.name for target in self.target}
        for rule in self.rule:
            for name in rule.targets:
                if name not in known:
                    raise InvalidSettingsError(
                        f"rule {rule.name!r} names the target {name!r}, but no [[target]] has that name"
                    )
            if not rule.targets:
                raise InvalidSettingsError(f"rule {rule.name!r} names no targets: its results would go nowhere")
            if not rule.outputs:
                raise InvalidSettingsError(f"rule {rule.name!r} names no outputs")

    def rule_named(self, name: str) -> Rule | None:
        """Return a rule, None if there is none of that name (any more)."""
        return next((rule for rule in self.rule if rule.name == name), None)


def read_settings(folder: Path) -> Settings:
    """Read the settings of a node's folder.

    Raises:
        InvalidSettingsError: there is no such file, or a line of it makes no sense; the message names it.
    """
    path = folder / SETTINGS_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidSettingsError(
            f"{path} cannot be read ({error.strerror}); 'kdseg-node init {folder}' makes a node's folder"
        ) from error
    try:
        return msgspec.toml.decode(content, type=Settings)
    except (msgspec.DecodeError, KDSegmentatorError, UnicodeDecodeError, ValueError) as error:
        raise InvalidSettingsError(f"{path}: {error}") from error
