"""An HTTP service of models: predictions, relaxations, vibrations, and a page to play with.

``lesff serve -m NAME`` starts it; :func:`lesff.service.app.create_app` makes the application. It
needs the extra ``serve`` (FastAPI, uvicorn, orjson, prometheus-client).
"""
