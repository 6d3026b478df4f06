"""The .ui files and the code that uses it, without Qt: every name and every parameter is there."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from KDSegmentatorLib.options import RunOptions

MODULE = Path(__file__).parents[3] / "KDSegmentator"
UIS = {path.stem: ET.parse(path).getroot() for path in sorted((MODULE / "Resources" / "UI").glob("*.ui"))}
CODE = sorted([MODULE / "KDSegmentator.py", *(MODULE / "KDSegmentatorPanel").rglob("*.py")])
WIDGETS = {widget.get("name", ""): widget for root in UIS.values() for widget in root.iter("widget")}

CONNECTORS = {
    "bool": {"QCheckBox"},
    "int": {"QSpinBox"},
    "str": {"QLineEdit"},
    "vtkMRMLScalarVolumeNode": {"qMRMLNodeComboBox"},
    "vtkMRMLSegmentationNode": {"qMRMLNodeComboBox"},
}
"""What slicer.parameterNodeWrapper.guiConnectors binds to a type; an enumeration to a QComboBox."""


def parameters() -> dict[str, str]:
    """Return the fields of the parameter node with their types; those of the pack with its name before theirs."""
    found = fields_of("KDSegmentatorParameterNode", "parameterNodeWrapper")
    assert found.pop("options") == "KDSegmentatorOptions"
    return found | {f"options.{name}": kind for name, kind in OPTIONS.items()}


def fields_of(name: str, decorator: str) -> dict[str, str]:
    """Return the fields of a class of the module with their types, without annotations but for choices."""
    tree = ast.parse((MODULE / "KDSegmentator.py").read_text(encoding="utf-8"))
    node = next(each for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)
    assert [ast.unparse(each) for each in node.decorator_list] == [decorator]
    return {
        ast.unparse(field.target): re.sub(
            r"^Annotated\[(\w+), (\w+).*$",
            lambda found: "choice" if found[2] == "Choice" else found[1],
            ast.unparse(field.annotation),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    }


OPTIONS = fields_of("KDSegmentatorOptions", "parameterPack")


def bound() -> dict[str, str]:
    """Return widget names by the parameter that they are bound to."""
    found = {}
    for name, widget in WIDGETS.items():
        for each in widget.findall("property[@name='SlicerParameterName']"):
            assert each.get("stdset") == "0", "a dynamic property"
            found[each.findtext("string") or ""] = name
    return found


def used_names(path: Path) -> set[str]:
    """Return the names of the panel's widgets that a file uses."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[-1] in ("ui", "_ui"):
            found.add(node.attr)
    return found


@pytest.mark.parametrize("ui", UIS.values(), ids=UIS)
def test_the_root_is_what_slicer_expects(ui: ET.Element) -> None:
    root = ui.find("widget")
    assert root is not None
    assert root.get("class") == "qMRMLWidget"


def test_names_are_unique() -> None:
    names = [
        each.get("name") for ui in UIS.values() for kind in ("widget", "layout", "spacer") for each in ui.iter(kind)
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_every_name_that_the_code_uses_is_there(path: Path) -> None:
    assert used_names(path) <= set(WIDGETS)


def test_every_widget_is_used() -> None:
    """By the code, by a parameter, or as a caption or container of others."""
    used = set().union(*map(used_names, CODE)) | set(bound().values())
    for name, widget in WIDGETS.items():
        caption = widget.get("class") == "QLabel" and name.endswith("Label") and widget.find("property") is not None
        assert name in used or caption or widget.find("layout") is not None, f"{name} does nothing"


def test_every_bound_parameter_is_a_field_and_the_widget_can_show_it() -> None:
    fields = parameters()
    for parameter, name in bound().items():
        assert parameter in fields
        widget, kind = WIDGETS[name].get("class"), fields[parameter]
        assert widget in CONNECTORS.get(kind, {"QComboBox"}), f"no connector of {widget} to {kind}"


def test_options_have_the_names_of_the_library() -> None:
    assert {name for name in OPTIONS if name != "region_given"} <= set(RunOptions.__struct_fields__)
    unbound = {name for name in OPTIONS if f"options.{name}" not in bound()}
    assert unbound == {"size"}, "the size is bound by code: its buttons depend on the task"


def test_widgets_of_the_scene_get_it() -> None:
    connected = {
        each.findtext("receiver")
        for ui in UIS.values()
        for each in ui.iter("connection")
        if each.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and each.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    needing = {
        name
        for name, widget in WIDGETS.items()
        if widget.get("class") in ("qMRMLNodeComboBox", "qMRMLSegmentsTableView")
    }
    assert connected == needing


@pytest.mark.parametrize("ui", UIS.values(), ids=UIS)
def test_custom_widgets_are_declared(ui: ET.Element) -> None:
    declared = {each.findtext("class") for each in ui.iter("customwidget")}
    custom = {widget.get("class", "") for widget in ui.iter("widget")}
    custom = {name for name in custom if not name.startswith("Q")}
    assert custom <= declared


def test_every_control_has_a_tooltip() -> None:
    """Those whose tooltip depends on the state get it from the code."""
    from_code = {"batchButton"}
    kinds = {"QPushButton", "QComboBox", "QCheckBox", "QSpinBox", "QLineEdit", "qMRMLNodeComboBox", "ctkPathLineEdit"}
    for name, widget in WIDGETS.items():
        if widget.get("class") in kinds and name not in from_code:
            assert widget.findtext("property[@name='toolTip']/string"), f"{name} has no tooltip"


@pytest.mark.parametrize("ui", UIS.values(), ids=UIS)
def test_texts_can_be_translated(ui: ET.Element) -> None:
    """Texts that people read are translatable; names that the program reads are not."""
    for each in ui.iter("property"):
        string = each.find("string")
        if string is None:
            string = each.find("stringlist")
        if string is not None:
            technical = each.get("name") in ("SlicerParameterName", "nodeTypes", "settingKey", "styleSheet")
            assert (string.get("notr") == "true") is technical, each.get("name")
