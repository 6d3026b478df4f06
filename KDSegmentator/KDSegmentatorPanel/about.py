"""What the module says about itself in "Help & Acknowledgement"."""

from __future__ import annotations

from KDSegmentatorPanel.translation import tr as _

DOCUMENTATION_URL = "https://github.com/KDSegmentator/KDSegmentator/blob/main/docs/slicer-module.md"


def help_text() -> str:
    """Return how to use the module, as HTML."""
    text = _("""
<p>Multi-label segmentation on this computer with small <b>students</b> that were distilled from large nnU-Net
<b>teachers</b>: no cloud, no graphics card, no torch.</p>
<ol>
<li>Choose a volume. Tasks that do not fit it are greyed, with the reason as their tooltip.</li>
<li>Choose a size, or leave the advised one. Time and memory are estimates for this computer and this volume.</li>
<li>Click Segment. Slicer can be used meanwhile, and the run can be cancelled; nothing changes in the scene before the
result is complete.</li>
</ol>
<p><b>Not a medical device; for research.</b> Every result has to be checked by a person. What a pack is made for, how
it was tested and where its limits are is said in its card under Models.</p>
""")
    return text + _("<p>More in the <a href='{url}'>documentation</a>.</p>").format(url=DOCUMENTATION_URL)


def acknowledgement_text() -> str:
    """Return on whose work the module is built, as HTML."""
    return _("""
<p>Built on nnU-Net: Isensee et al., <i>nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation</i>, Nature Methods 18, 203-211 (2021).</p>
<p>The students are made with knowledge distillation as in <i>From Performance to Practice: Knowledge-Distilled
Segmentator for On-Premises Clinical Workflows</i> (Lan, Choi, Ma, Wang, Zhao, Jiang, Hsu) and <i>ReCo-KD: Region- and
Context-Aware Knowledge Distillation for Efficient 3D Medical Image Segmentation</i> (arXiv 2601.08301).</p>
<p>Hippocampus packs and sample: Medical Segmentation Decathlon, Task04 Hippocampus, Vanderbilt University Medical
Center, CC BY-SA 4.0; Antonelli et al., <i>The Medical Segmentation Decathlon</i>, Nature Communications 13, 4128
(2022).</p>
""")
