"""The record of a run: data classes, JSON schema, rendering."""
