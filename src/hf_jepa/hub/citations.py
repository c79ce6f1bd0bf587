"""The papers of the variants, as cards cite them."""

from typing import NamedTuple

from hf_jepa.registry import Variant


class Paper(NamedTuple):
    """A paper.

    Args:
        authors: as a sentence names them.
        year: of its first version.
        title: None where it is not known here.
    """

    authors: str
    year: int
    title: str | None


# By arXiv identifier, as in the READMEs of the variants, with which a test compares them.
PAPERS = {
    "2301.08243": Paper(
        "Assran et al.",
        2023,
        "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture",
    ),
    "2404.08471": Paper(
        "Bardes et al.", 2024, "Revisiting Feature Prediction for Learning Visual Representations from Video"
    ),
    "2506.09985": Paper(
        "Assran et al.",
        2025,
        "V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning",
    ),
    "2603.14482": Paper("Mur-Labadia et al.", 2026, None),
    "2202.03555": Paper(
        "Baevski et al.",
        2022,
        "data2vec: A General Framework for Self-supervised Learning in Speech, Vision and Language",
    ),
    "2512.16922": Paper("Xu et al.", 2025, "Next-Embedding Prediction Makes Strong Vision Learners"),
    "2511.08544": Paper(
        "Balestriero and LeCun",
        2025,
        "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics",
    ),
    "2602.01456": Paper("Kuang et al.", 2026, "Rectified LpJEPA"),
    "2602.03604": Paper(
        "Terver et al.", 2026, "A Lightweight Library for Energy-Based Joint-Embedding Predictive Architectures"
    ),
    "2603.19312": Paper(
        "Maes et al.", 2026, "LeWorldModel: Stable End-to-End Joint-Embedding Predictive Architecture from Pixels"
    ),
    "2604.03208": Paper("Zhang et al.", 2026, "Hierarchical Planning with Latent World Models"),
    "2105.04906": Paper(
        "Bardes, Ponce and LeCun",
        2021,
        "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    ),
    "2011.10566": Paper("Chen and He", 2020, "Exploring Simple Siamese Representation Learning"),
    "2410.19560": Paper(
        "Mo and Tong",
        2024,
        "Connecting Joint-Embedding Predictive Architecture with Contrastive Self-supervised Learning",
    ),
    "2509.24317": Paper("Li et al.", 2025, "Rethinking JEPA: Compute-Efficient Video SSL with Frozen Teachers"),
    "2509.14252": Paper(
        "Huang, LeCun and Balestriero",
        2025,
        "LLM-JEPA: Large Language Models Meet Joint Embedding Predictive Architectures",
    ),
    "2512.10942": Paper("Chen et al.", 2025, "VL-JEPA: Joint Embedding Predictive Architecture for Vision-language"),
}


def citation(variant: Variant) -> str:
    """The BibTeX entry of a variant's paper.

    Without an entry of `PAPERS`, as for a variant that is not of this package, it has the identifier alone.

    Example:
        >>> from hf_jepa.registry import VARIANTS
        >>> print(citation(VARIANTS["simsiam"]))
        @misc{simsiam,
          title = {Exploring Simple Siamese Representation Learning},
          author = {Chen and He},
          year = {2020},
          eprint = {2011.10566},
          archivePrefix = {arXiv},
          url = {https://arxiv.org/abs/2011.10566},
        }
    """
    paper = PAPERS.get(variant.paper)
    fields = {"title": paper.title if paper and paper.title else variant.title}
    if paper is not None:
        fields |= {"author": _bibtex_authors(paper.authors), "year": paper.year}
    fields |= {
        "eprint": variant.paper,
        "archivePrefix": "arXiv",
        "url": f"https://arxiv.org/abs/{variant.paper}",
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@misc{{{variant.name},", *lines, "}"])


def _bibtex_authors(authors: str) -> str:
    """Names joined as BibTeX splits them."""
    return authors.replace(" et al.", " and others").replace(", ", " and ")


__all__ = ["PAPERS", "Paper", "citation"]
