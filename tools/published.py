"""Write the manifest files of the models that others publish.

Facts of a family stand here once. Addresses are pinned to a commit where the file is in a git
repository; hashes are git's own ids of the files at that commit. The weights are not ours and are
not redistributed. After a change: `python tools/published.py`, then
`lesff list --markdown` into docs/published-models.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATE = "2026-11-23"

ORGANIC = (1, 6, 7, 8, 9, 15, 16, 17, 35, 53)
INORGANIC = (*range(1, 84), *range(89, 95))
SPICE_LEVEL = "wB97M-D3(BJ)/def2-TZVPPD"
DIPEPTIDES, GOLD = (1, 6, 7, 8), (8, 12, 13, 79)

ASL = {
    "license": "LicenseRef-ASL",
    "license_url": "https://github.com/gabor1/ASL",
    "license_terms": "Academic Software Licence: academic, non-commercial use only; works derived "
    "from the model are passed on under the same licence.",
}
CC_BY_NC = {
    "license": "CC-BY-NC-4.0",
    "license_url": "https://creativecommons.org/licenses/by-nc/4.0/",
    "license_terms": "Non-commercial use only, with credit to the authors.",
}
MIT = {
    "license": "MIT",
    "license_url": "https://opensource.org/license/mit",
    "license_terms": "Any use; the copyright notice must be kept.",
}

LES_FIT = "https://raw.githubusercontent.com/ChengUCB/les_fit/f9937a51f699"
MACE_OFF = (
    "https://raw.githubusercontent.com/ACEsuit/mace-off/91a78c5a9c300d1104700d9352c8bfe449227737"
)
MACE = (
    "https://raw.githubusercontent.com/ACEsuit/mace/667eee4e58d23a38ff5a75122109ec2025809649"
    "/mace/calculators/foundations_models"
)
MP_RELEASES = "https://github.com/ACEsuit/mace-mp/releases/download"
RELEASES = "https://github.com/ACEsuit/mace-foundations/releases/download"
IN_CODE = "mace_mp_urls in mace/calculators/foundations_models.py of ACEsuit/mace"
IN_README = "README of ACEsuit/mace-foundations"
NEQUIX = "https://github.com/atomicarchitects/nequix/raw"
IN_CALCULATOR = "NequixCalculator.URLS in nequix/calculator.py of atomicarchitects/nequix"
PINNED = "path and commit in the repository"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One file (or one head of it) and what is known about it."""

    name: str
    url: str
    description: str
    level_of_theory: str
    elements: tuple[int, ...]
    terms: dict[str, str]
    bibtex: tuple[str, ...]
    citation: str
    home: str
    url_from: str = PINNED
    git_blob: str | None = None
    sha256: str | None = None
    size: int | None = None
    member: str | None = None
    head: str | None = None
    aliases: tuple[str, ...] = ()
    total_charge: tuple[int, int] = (0, 0)
    spin_multiplicity: tuple[int, int] = (1, 1)

    def to_manifest(self) -> dict[str, Any]:
        """Content of the manifest file."""
        source = {
            "url": self.url,
            "filename": self.url.rsplit("/", 1)[-1],
            "home": self.home,
            "url_from": self.url_from,
            "size": self.size,
            "git_blob": self.git_blob,
            "sha256": self.sha256,
            "head": self.head,
            "member": self.member,
        }
        return {
            "name": self.name,
            "aliases": list(self.aliases),
            "description": self.description,
            **self.terms,
            "elements": list(self.elements),
            "citation": self.citation,
            "bibtex": list(self.bibtex),
            "versions": [
                {
                    "version": "1.0.0",
                    "date": DATE,
                    "sources": {
                        "published": {k: v for k, v in source.items() if v is not None},
                    },
                    "min_lesff": "0.1.0",
                    "level_of_theory": self.level_of_theory,
                    "total_charge": list(self.total_charge),
                    "spin_multiplicity": list(self.spin_multiplicity),
                }
            ],
        }


def off_models() -> list[Model]:
    """MACE-OFF and MACELES-OFF."""
    base = Model(
        name="mace-off23-small",
        url=f"{MACE_OFF}/mace_off23/MACE-OFF23_small.model",
        description="MACE-OFF23 small: short-range MACE for neutral organic molecules, SPICE data.",
        level_of_theory=SPICE_LEVEL,
        elements=ORGANIC,
        terms=ASL,
        bibtex=("Kovacs2025MACEOFF", "Batatia2022MACE", "Eastman2023SPICE"),
        citation="Kovacs et al., J. Am. Chem. Soc. 147, 17598 (2025), arXiv 2312.15211",
        home="https://github.com/ACEsuit/mace-off",
        git_blob="6c1daa4a7aebf6a9ba059214ded4645774f0a1a0",
    )
    rows = [
        ("mace-off23-medium", "mace_off23/MACE-OFF23_medium.model",
         "51573784691d0bd80bc3b6278411d006db8f848a", "MACE-OFF23 medium"),
        ("mace-off23-large", "mace_off23/MACE-OFF23_large.model",
         "02a50e3cfad8d263e0501f7fe522062fde9874bd", "MACE-OFF23 large"),
        ("mace-off23b-medium", "mace_off23/MACE-OFF23b_medium.model",
         "0b069d88375e9c7d720ac0bc239129c9eb9b510e", "MACE-OFF23b medium, longer cutoff"),
        ("mace-off24-medium", "mace_off24/MACE-OFF24_medium.model",
         "413df802546a6effe05b77b589ccb1d8a34b7225", "MACE-OFF24 medium"),
    ]  # fmt: skip
    others = [
        replace(
            base,
            name=name,
            url=f"{MACE_OFF}/{path}",
            git_blob=blob,
            description=f"{title}: short-range MACE for neutral organic molecules, SPICE data.",
        )
        for name, path, blob, title in rows
    ]
    les = replace(
        base,
        name="maceles-off-small",
        url=f"{LES_FIT}/MACELES-OFF/MACELES-OFF_small.model",
        git_blob="e100b69ba4158c15a87258dc06be9770c236649e",
        description="MACELES-OFF: MACE with latent Ewald electrostatics for organic molecules, "
        "SPICE data.",
        terms=CC_BY_NC,
        bibtex=(
            "Kim2025Universal", "Cheng2025Latent", "King2025Machine", "Batatia2022MACE",
            "Eastman2023SPICE",
        ),
        citation="Kim et al., J. Chem. Theory Comput. 21, 12709 (2025), arXiv 2507.14302",
        home="https://github.com/ChengUCB/les_fit",
    )  # fmt: skip
    return [les, base, *others]


def materials_models() -> list[Model]:
    """MACE-MP, MACE-MPA, MACE-OMAT, MACE-MATPES, MACE-MH and the ANI model in the MACE code."""
    mp = Model(
        name="mace-mp-0-medium",
        url=f"{MACE}/2023-12-03-mace-mp.model",
        description="MACE-MP-0 medium: materials, 89 elements, MPtrj data.",
        level_of_theory="PBE+U (MPtrj)",
        elements=INORGANIC,
        terms=MIT,
        bibtex=("Batatia2025Foundation", "Batatia2022MACE", "Deng2023CHGNet"),
        citation="Batatia et al., J. Chem. Phys. 163, 184110 (2025), arXiv 2401.00096",
        home="https://github.com/ACEsuit/mace-foundations",
        git_blob="e7a362ad52797da46afa03056a3c83f82497c12b",
    )
    later = replace(mp, git_blob=None, url_from=IN_CODE)
    files = {
        "mace-mp-0-small": "mace_mp_0/2023-12-10-mace-128-L0_energy_epoch-249.model",
        "mace-mp-0-large": "mace_mp_0/2024-01-07-mace-128-L2_epoch-199.model",
        "mace-mp-0b-small": "mace_mp_0b/mace_agnesi_small.model",
        "mace-mp-0b-medium": "mace_mp_0b/mace_agnesi_medium.model",
        "mace-mp-0b2-small": "mace_mp_0b2/mace-small-density-agnesi-stress.model",
        "mace-mp-0b2-medium": "mace_mp_0b2/mace-medium-density-agnesi-stress.model",
        "mace-mp-0b2-large": "mace_mp_0b2/mace-large-density-agnesi-stress.model",
        "mace-mp-0b3-medium": "mace_mp_0b3/mace-mp-0b3-medium.model",
    }
    models = [mp]
    for name, path in files.items():
        family, _, size = name.removeprefix("mace-mp-").rpartition("-")
        models.append(
            replace(
                later,
                name=name,
                url=f"{MP_RELEASES}/{path}",
                url_from=IN_README if name == "mace-mp-0-large" else IN_CODE,
                description=f"MACE-MP-{family} {size}: materials, 89 elements, MPtrj data.",
            )
        )
    mpa = replace(
        mp,
        name="mace-mpa-0-medium",
        url=f"{MACE}/mace-mpa-0-medium.model",
        description="MACE-MPA-0 medium: materials, 89 elements, MPtrj and sAlex data.",
        level_of_theory="PBE+U (MPtrj and sAlex)",
        bibtex=(*mp.bibtex, "BarrosoLuque2024OMat24"),
        git_blob="962c5918bb24895b4579e29b52d6f4f60673f70f",
    )
    ani = replace(
        mp,
        name="mace-ani500k-large",
        url=f"{MACE}/ani500k_large_CC.model",
        description="MACE for H, C, N, O molecules, coupled-cluster ANI data.",
        level_of_theory="coupled cluster (ANI data)",
        elements=(1, 6, 7, 8),
        bibtex=("Kovacs2023Evaluation", "Batatia2022MACE"),
        citation="Kovacs et al., J. Chem. Phys. 159, 044118 (2023)",
        home="https://github.com/ACEsuit/mace",
        git_blob="eee5bb699e0ad6d8dbf8ba6212fe2e0c572ab2e8",
    )
    return [*models, mpa, ani, *_omat_models(later), *_multi_head_models(later)]


def _omat_models(base: Model) -> list[Model]:
    omat = replace(
        base,
        terms=ASL,
        level_of_theory="PBE+U, VASP 54 (OMat24)",
        bibtex=("Batatia2025Foundation", "Batatia2022MACE", "BarrosoLuque2024OMat24"),
    )
    matpes = replace(
        base,
        terms=ASL,
        bibtex=("Batatia2025Foundation", "Batatia2022MACE", "Kaplan2025MatPES"),
    )
    return [
        replace(
            omat,
            name="mace-omat-0-medium",
            url=f"{MP_RELEASES}/mace_omat_0/mace-omat-0-medium.model",
            description="MACE-OMAT-0 medium: materials, 89 elements, OMat24 data.",
        ),
        replace(
            omat,
            name="mace-omat-0-small",
            url=f"{RELEASES}/mace_omat_0/mace-omat-0-small.model",
            url_from=IN_README,
            description="MACE-OMAT-0 small: materials, 89 elements, OMat24 data.",
        ),
        replace(
            matpes,
            name="mace-matpes-pbe-0",
            url=f"{RELEASES}/mace_matpes_0/MACE-matpes-pbe-omat-ft.model",
            level_of_theory="PBE, without +U (MatPES)",
            description="MACE-MATPES-PBE-0: materials, 89 elements, MatPES data.",
        ),
        replace(
            matpes,
            name="mace-matpes-r2scan-0",
            url=f"{RELEASES}/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
            level_of_theory="r2SCAN (MatPES)",
            description="MACE-MATPES-r2SCAN-0: materials, 89 elements, MatPES data.",
        ),
    ]


def _multi_head_models(base: Model) -> list[Model]:
    heads = {
        "omat_pbe": ("PBE+U (OMat24)", ("BarrosoLuque2024OMat24",)),
        "omol": ("wB97M-VV10 (OMol25)", ("Levine2025OMol25",)),
        "spice_wB97M": ("wB97M (SPICE)", ("Eastman2023SPICE",)),
        "rgd1_b3lyp": ("B3LYP (RGD1)", ()),
        "oc20_usemppbe": ("PBE (OC20)", ()),
        "matpes_r2scan": ("r2SCAN (MatPES)", ("Kaplan2025MatPES",)),
    }
    base = replace(base, terms=ASL, url_from="README of ACEsuit/mace")
    several = [
        replace(
            base,
            name=f"mace-mh-1-{head.replace('_', '-').lower()}",
            url=f"{RELEASES}/mace_mh_1/mace-mh-1.model",
            head=head,
            description=f"MACE-MH-1, head {head}: crystals, surfaces and molecules, 89 elements.",
            level_of_theory=level,
            bibtex=("Batatia2025Cross", "Batatia2022MACE", *data),
            citation="Batatia et al., arXiv 2510.25380 (2025)",
            home="https://huggingface.co/mace-foundations/mace-mh-1",
        )
        for head, (level, data) in heads.items()
    ]
    # charge and spin: what the embedding of the file has room for
    omol = replace(
        base,
        name="mace-omol-0-extra-large",
        url=f"{RELEASES}/mace_omol_0/MACE-omol-0-extra-large-1024.model",
        description="MACE-OMOL-0: molecules, metal complexes, ions; charge, spin; OMol25 data.",
        level_of_theory="wB97M-VV10 (OMol25)",
        bibtex=("Batatia2025Foundation", "Batatia2022MACE", "Levine2025OMol25"),
        total_charge=(-100, 100),
        spin_multiplicity=(1, 100),
    )
    return [*several, omol]


LES_FIT_BLOBS = {
    "Au-MgO-Al/mace-r4.5-nl-1-l-0": "28dc73d2d9aa62ff37a835daacfa89ee48ec2c8a",
    "Au-MgO-Al/mace-r4.5-nl-1-l-1": "7ecce4747496d3b416636c95a1db39afcf2f11fd",
    "Au-MgO-Al/mace-r5.5-nl-0": "70b08afdc4ff6ee56e886b9109f49009855df661",
    "Au-MgO-Al/mace-r5.5-nl-1-l-0": "9fd6626b0187e845472dd8bf75d0fe941289b889",
    "Au-MgO-Al/mace-r5.5-nl-1-l-1": "fcd673a856311b160b2e63fddedc795f0c851769",
    "Au-MgO-Al/maceles-r4.5-nl-1-l-0": "3045875afec6a8c5f0a3b5fa14462f30cfca4bd2",
    "Au-MgO-Al/maceles-r4.5-nl-1-l-1": "baa5a67dbea99e77f544d4d50dfa8f0c9ad6a0d4",
    "Au-MgO-Al/maceles-r5.5-nl-0": "7cbf493ddefc5fa1855d8b301090c0a794421cda",
    "Au-MgO-Al/maceles-r5.5-nl-1-l-0": "5aae8d1f64b1d129d3d155196e9aa23ce404435c",
    "Au-MgO-Al/maceles-r5.5-nl-1-l-1": "1e672120f02c8610b40379a120805aa8699c6b76",
    "dipep/mace-r-4-l-0": "6bf0d552f4501f81015bc8f1496a0f722cb4b910",
    "dipep/mace-r-4.5-l-0": "bc8a645c99d7c4aec12df52b24615c032befc3c6",
    "dipep/mace-r-4.5-l-1": "909a7de926f2b0cab84bec2e7b507f78c0cfc4cf",
    "dipep/maceles-r-4-l-0": "1645e9d347a16a01a6cfb32a8d12c621824c21c7",
    "dipep/maceles-r-4-l-1": "003352f2a0f5febd29cd636087ac1cd4f127be11",
    "dipep/maceles-r-4.5-l-0": "3f631fe3feb7c7b936605c6c43da619572d04bda",
    "dipep/maceles-r-4.5-l-1": "481e005929fdebfd8ec546ddf874cb83bd521a86",
    "water/mace-r-4.5-nl-0": "38b42fdc8765bad6dbbae2397989b7b06b7881eb",
    "water/mace-r-4.5-nl-1-l-0": "dc564fa734c1445ad099665adbe803ebd084cbbb",
    "water/mace-r-4.5-nl-1-l-1": "a71fad0deca2ae6408a2c4508d8ce14f6868fd27",
    "water/maceles-r-4.5-nl-0": "5d727c3a73a62117bfd71be26c2f239f9a3c5be7",
    "water/maceles-r-4.5-nl-1-l-0": "f735e0c1fd404161df61d1a34145c83f949d0a8b",
    "water/maceles-r-4.5-nl-1-l-1": "f1a9d041eb348e8728fa3ab6f007062dc0e3dd81",
}
"""Folders of the les_fit repository under MLIPs/MACE-LES -> git blob id of the model."""

LES_FIT_SIZES = {
    "dipep/mace-r-4-l-0": 1797564,
    "dipep/maceles-r-4-l-0": 1630678,
    "dipep/maceles-r-4.5-l-0": 1611735,
    "water/mace-r-4.5-nl-1-l-0": 2873524,
    "water/maceles-r-4.5-nl-0": 3910668,
    "water/maceles-r-4.5-nl-1-l-0": 2510598,
}
"""Bytes, of the files that were looked at."""


def les_fit_models() -> list[Model]:
    """The models of the LES benchmark: water, dipeptides, gold on magnesium oxide."""
    systems = {
        "water": ("water", "H20_stagetwo.model", (1, 8), "RPBE-D3", "liquid water"),
        "dipep": ("dipeptides", "dipep_train_stagetwo.model", DIPEPTIDES,
                  f"{SPICE_LEVEL} (SPICE dipeptides)", "dipeptides"),
        "Au-MgO-Al": ("au-mgo", "Au2-MgO_stagetwo.model", GOLD,
                      "DFT of Ko et al., Nat. Commun. 12, 398 (2021)",
                      "Au2 on pure and Al-doped MgO(001)"),
    }  # fmt: skip
    data = {"dipep": ("Eastman2023SPICE",), "Au-MgO-Al": ("Ko2021Fourth",)}
    models = []
    for folder, blob in LES_FIT_BLOBS.items():
        system, _, variant = folder.partition("/")
        kind, _, details = variant.partition("-")
        short, filename, elements, level, matter = systems[system]
        details = details.replace("r-", "r").replace("nl-", "nl").replace("l-", "l")
        if system == "water":
            details = details.removeprefix("r4.5-")
        with_les = " with latent Ewald electrostatics" if kind == "maceles" else ""
        models.append(
            Model(
                name=f"les-fit-{short}-{kind}-{details}",
                url=f"{LES_FIT}/MLIPs/MACE-LES/{folder}/{filename}",
                description=f"MACE{with_les} for {matter}, {variant} of the LES benchmark.",
                level_of_theory=level,
                elements=elements,
                terms=CC_BY_NC,
                bibtex=(
                    "Kim2025Universal", "Cheng2025Latent", "King2025Machine", "Batatia2022MACE",
                    *data.get(system, ()),
                ),
                citation="Kim et al., J. Chem. Theory Comput. 21, 12709 (2025), arXiv 2507.14302",
                home="https://github.com/ChengUCB/les_fit",
                git_blob=blob,
                size=LES_FIT_SIZES.get(folder),
            )
        )  # fmt: skip
    return models


def nequix_models() -> list[Model]:
    """Nequix: NequIP models of materials; the digest is that of the file that the tests read."""
    base = Model(
        name="nequix-oam-1-pft",
        url=f"{NEQUIX}/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models/nequix-oam-1-pft.nqx",
        description="Nequix OAM: NequIP for materials, 89 elements, OMat24, sAlex and MPtrj data, "
        "finetuned on phonons.",
        level_of_theory="PBE+U (OMat24, sAlex, MPtrj and MDR phonons)",
        elements=INORGANIC,
        terms=MIT,
        bibtex=(
            "Koker2025Nequix", "Koker2026PFT", "Batzner2022NequIP", "BarrosoLuque2024OMat24",
            "Deng2023CHGNet",
        ),
        citation="Koker, Kotak, Smidt, arXiv 2508.16067 (2025); phonon finetuning: Koker et al., "
        "arXiv 2601.07742 (2026)",
        home="https://github.com/atomicarchitects/nequix",
        url_from=IN_CALCULATOR,
        sha256="4ce693d68886512aab50c84ea2400efd68163e11155f7c7babe98e695177e809",
        size=2842066,
        aliases=("nequix",),
    )  # fmt: skip
    later, earlier = (
        f"{NEQUIX}/{commit}/models"
        for commit in (
            "9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28", "7c2854de8e754b1a60274c7d9d2e014989ed632e",
        )
    )  # fmt: skip
    rows = [
        ("nequix-oam-1", later, "OAM", "OMat24, sAlex and MPtrj data",
         "PBE+U (OMat24, sAlex and MPtrj)"),
        ("nequix-omat-1", later, "OMat", "OMat24 data", "PBE+U, VASP 54 (OMat24)"),
        ("nequix-mp-1", earlier, "MP", "MPtrj data", "PBE+U (MPtrj)"),
        ("nequix-mp-1-pft", earlier, "MP", "MPtrj data, finetuned on phonons",
         "PBE+U (MPtrj and MDR phonons)"),
    ]  # fmt: skip
    others = []
    for name, place, family, data, level in rows:
        keys = ["Koker2025Nequix", "Batzner2022NequIP"]
        keys += ["Koker2026PFT"] if name != "nequix-mp-1" else []
        keys += ["BarrosoLuque2024OMat24"] if "OMat24" in data else []
        keys += ["Deng2023CHGNet"] if "MPtrj" in data else []
        others.append(
            replace(
                base,
                name=name,
                url=f"{place}/{name}.nqx",
                description=f"Nequix {family}: NequIP for materials, 89 elements, {data}.",
                level_of_theory=level,
                bibtex=tuple(keys),
                sha256=None,
                size=None,
                aliases=(),
            )
        )
    return [base, *others]


AUTO3D = (
    "https://files.pythonhosted.org/packages/93/f9/"
    "a7e766a53069085f7c0945631fbb0172939107b3913724b16547ec4088fe/Auto3D-2.3.1-py3-none-any.whl"
)
"""The wheel, by a group of the same authors, that the archives of AIMNet2 come in."""


def aimnet2_models() -> list[Model]:
    """The four members of AIMNet2 with wB97M-D3, which are one file, and their ensemble."""
    base = Model(
        name="aimnet2-wb97m-d3",
        url=AUTO3D,
        description="AIMNet2, first of four: neutral and charged molecules of 14 elements.",
        level_of_theory="wB97M-D3(BJ)/def2-TZVPP",
        elements=(1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53),
        terms=MIT,
        bibtex=("Anstine2025AIMNet2", "Grimme2010D3", "Grimme2011BJ", "Liu2022Auto3D"),
        citation="Anstine et al., Chem. Sci. 16, 10228 (2025)",
        home="https://github.com/isayevlab/AIMNet2",
        url_from="PyPI, Auto3D 2.3.1",
        sha256="bff5fbdd0d57b5a9d3d0d40ac4f6c10634cbc685c692a926c41e2e73f82a72f1",
        size=49968311,
        member="Auto3D/models/aimnet2_wb97m_ens_f.jpt",
        head="0",
        total_charge=(-10, 10),
    )
    others = [
        replace(
            base,
            name=f"aimnet2-wb97m-d3-{head}",
            head=str(head),
            description=f"AIMNet2, {place} of four: neutral and charged molecules of 14 elements.",
        )
        for head, place in enumerate(("second", "third", "fourth"), start=1)
    ]
    ensemble = replace(
        base,
        name="aimnet2-wb97m-d3-ensemble",
        head="all",
        description="AIMNet2, all four as an ensemble: mean and spread; molecules of 14 elements.",
    )
    return [base, *others, ensemble]


def manifest_files() -> dict[str, str]:
    """File name -> content of every manifest file of a published model."""
    models = [
        *off_models(), *materials_models(), *nequix_models(), *les_fit_models(),
        *aimnet2_models(),
    ]  # fmt: skip
    return {
        f"{model.name}.json": json.dumps(model.to_manifest(), indent=1, ensure_ascii=False) + "\n"
        for model in models
    }


def main() -> None:
    """Write the files."""
    for name, text in manifest_files().items():
        (ROOT / "checkpoints_manifest" / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
