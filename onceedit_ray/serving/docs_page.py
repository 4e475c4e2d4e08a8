"""`/docs`: the routes of the API as a page of HTML, made from its own schema; it loads nothing from another server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; }
td { padding: .1rem .8rem .1rem 0; vertical-align: top; }
"""


def docs_page(schema: Mapping[str, Any]) -> str:
    """The page of an OpenAPI schema: for each route what it does, its parameters, and the fields of its body."""
    body = "\n".join(_routes(schema))
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head>\n"
        f'<body><h1>{title}</h1>\n<p>For programs: <a href="openapi.json">openapi.json</a>.</p>\n'
        f"{body}\n</body></html>\n"
    )


def _routes(schema: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
            if about := route.get("description"):
                yield f"<p>{escape(about)}</p>"
            rows = [(each["name"], each["schema"], each.get("required", False)) for each in route.get("parameters", ())]
            content = route.get("requestBody", {}).get("content", {}).get("application/json", {})
            for model in _models(content.get("schema", {}), schema):
                needed = model.get("required", ())
                rows += [(name, field, name in needed) for name, field in model.get("properties", {}).items()]
            if rows:
                yield f"<table>{''.join(_row(*row) for row in rows)}</table>"


def _row(name: str, field: Mapping[str, Any], needed: bool) -> str:
    about = "; ".join(filter(None, ("required" if needed else "", _kind(field), field.get("description", ""))))
    return f"<tr><td><code>{escape(name)}</code></td><td>{escape(about)}</td></tr>"


def _kind(field: Mapping[str, Any]) -> str:
    """The types that a field may have, as JSON calls them."""
    if "$ref" in field:
        return "object"
    inner = [each for key in ("anyOf", "oneOf") for each in field.get(key, ())]
    names = [_kind(each) for each in inner] if inner else [str(field.get("type", ""))]
    return " or ".join(dict.fromkeys(name for name in names if name and name != "null"))


def _models(body: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The objects that a body may be."""
    if "$ref" in body:
        yield schema["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    for each in (*body.get("anyOf", ()), *body.get("oneOf", ())):
        yield from _models(each, schema)
