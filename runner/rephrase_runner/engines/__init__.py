"""Engines: what turns prompts into text, behind one small interface."""
