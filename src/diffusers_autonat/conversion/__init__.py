from .enat import convert_enat_state_dict
from .uvit import convert_uvit_state_dict


__all__ = ["convert_enat_state_dict", "convert_uvit_state_dict"]
