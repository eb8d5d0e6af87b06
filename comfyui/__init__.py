"""Nodes of ComfyUI: copy or link this folder into ComfyUI's `custom_nodes/`; diffusers-autonat is installed in its Python."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS


__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
