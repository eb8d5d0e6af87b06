"""Released checkpoints of the family, as diffusers components."""

from .adagen import ADAGEN, ADAGEN_POLICY, ADANAT_POLICY, convert_policy_state_dict
from .enat import ENAT, convert_enat_state_dict
from .source_format import SourceFormat
from .uvit import AUTONAT, AUTONAT_TEXT, convert_uvit_state_dict
from .vqgan import VQGAN, convert_vqgan_state_dict


SOURCES = (AUTONAT, AUTONAT_TEXT, ADAGEN, ENAT, VQGAN, ADAGEN_POLICY, ADANAT_POLICY)

__all__ = [
    "SOURCES",
    "SourceFormat",
    "convert_enat_state_dict",
    "convert_policy_state_dict",
    "convert_uvit_state_dict",
    "convert_vqgan_state_dict",
]
