"""What all DICOM objects of a result share: equipment, dates, patient and study, text that fits, and UIDs.

A UID is made of the object's own content: the object is encoded with blank UIDs, and the digest of these bytes decides
(``2.25.`` and a name-based UUID, DICOM PS3.5 B.2, RFC 4122 version 5). The same content always has the same UID and the
same bytes, other content has another UID: an archive that has it already can never keep an old object in its place.
"""

from __future__ import annotations

import hashlib
import unicodedata
import uuid
from io import BytesIO
from typing import TYPE_CHECKING, Any

from highdicom.sr import CodedConcept
from pydicom import dcmwrite
from pydicom.charset import convert_encodings
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from KDSegmentatorLib.version import __version__

if TYPE_CHECKING:
    from highdicom import SOPClass

    from KDSegmentatorLib.dicom.labelled_images import LabelledImages
    from KDSegmentatorLib.dicom.series import DicomSeries
    from KDSegmentatorLib.packs.manifest import Code, Label

MANUFACTURER = "KDSegmentator"

LONG_STRING = 64
"""Characters of DICOM's value representation LO."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://kdsegmentator.org/dicom")
_BLANK_UID = "2.25.0"
_RESERVED = str.maketrans(dict.fromkeys("\\\r\n\t\f\x1b", " "))


def derived_uid(*content: str) -> str:
    """Return the UID of some content: the same for the same content, on every computer."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, chr(0).join(content)).int}"


def identification(images: LabelledImages, *, description: str, series_number: int) -> dict[str, Any]:
    """Return the arguments of highdicom's constructors that say what made the object, with blank UIDs.

    Args:
        images: the result.
        description: Series Description; what does not fit is cut off.
        series_number: of the new series.
    """
    algorithm = images.algorithm
    return {
        "series_instance_uid": _BLANK_UID,
        "sop_instance_uid": _BLANK_UID,
        "series_number": series_number,
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": fitted(algorithm.pack_id, images.series),
        "software_versions": [__version__, fitted(algorithm.pack_version, images.series)],
        "device_serial_number": algorithm.pack_sha256[:16],
        "series_description": fitted(description, images.series),
    }


def finish(instance: SOPClass, images: LabelledImages) -> None:
    """Give an object, complete otherwise, patient, study and dates of its series, and its UIDs."""
    source = images.series.datasets[0]
    moment = images.created
    if "SpecificCharacterSet" in source:
        instance["SpecificCharacterSet"] = source["SpecificCharacterSet"]
    if "TimezoneOffsetFromUTC" in source:
        instance["TimezoneOffsetFromUTC"] = source["TimezoneOffsetFromUTC"]
    instance.copy_patient_and_study_information(source)
    instance.InstanceCreationDate, instance.InstanceCreationTime = DA(moment.date()), TM(moment.time())
    for keyword in ("ContentDate", "DateOfSecondaryCapture"):
        if keyword in instance:
            setattr(instance, keyword, DA(moment.date()))
    for keyword in ("ContentTime", "TimeOfSecondaryCapture"):
        if keyword in instance:
            setattr(instance, keyword, TM(moment.time()))
    for equipment in instance.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = DT(moment)
    _set_uids(instance, {"instance": _BLANK_UID, "series": _BLANK_UID, "dimensions": _BLANK_UID})
    encoded = BytesIO()
    dcmwrite(encoded, instance, enforce_file_format=True)
    digest = hashlib.sha256(encoded.getbuffer()).hexdigest()
    _set_uids(instance, {name: derived_uid(digest, name) for name in ("instance", "series", "dimensions")})


def fitted(text: str, series: DicomSeries, most: int = LONG_STRING) -> str:
    """Return text of ours as it can stand beside the patient's name: in the character set of the series, and cut off.

    Letters that the character set does not have lose their accents, or become a question mark.
    """
    text = " ".join(unicodedata.normalize("NFC", text).translate(_RESERVED).split())
    encoding = _encoding(series)
    kept = "".join(letter if _has(encoding, letter) else _plain(letter) for letter in text)
    return kept[:most].rstrip()


def concept(code: Code, series: DicomSeries) -> CodedConcept:
    """Return a code of a pack as highdicom has it."""
    return CodedConcept(
        value=code.value, scheme_designator=code.scheme, meaning=fitted(code.meaning, series) or code.value
    )


def tracking(label: Label, images: LabelledImages) -> tuple[str, str]:
    """Return identifier and UID of a structure, the same in all objects and whenever that pack segments that series."""
    algorithm = images.algorithm
    uid = derived_uid("tracking", images.series.uid, images.series.sha256, algorithm.pack_sha256, str(label.value))
    return fitted(f"{label.value} {label.name}", images.series), uid


def _has(encoding: str, letter: str) -> bool:
    try:
        return bool(letter.encode(encoding))
    except UnicodeError:
        return False


def _encoding(series: DicomSeries) -> str:
    """Return Python's name of the character set of a series; ASCII for those that switch between several (ISO 2022)."""
    declared = series.datasets[0].get("SpecificCharacterSet") or "ISO_IR 6"
    return "ascii" if declared == "ISO_IR 6" or not isinstance(declared, str) else convert_encodings(declared)[0]


def _plain(letter: str) -> str:
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode("ascii") or "?"


def _set_uids(instance: SOPClass, uids: dict[str, str]) -> None:
    instance.SOPInstanceUID = uids["instance"]
    instance.file_meta.MediaStorageSOPInstanceUID = UID(uids["instance"])
    instance.SeriesInstanceUID = uids["series"]
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in instance.get(keyword, ()):
            item.DimensionOrganizationUID = uids["dimensions"]
