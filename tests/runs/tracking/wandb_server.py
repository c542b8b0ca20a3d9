"""A stand-in for the W&B server: it takes a run, and keeps what is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT = {"id": "p", "name": "p", "entity": {"id": "e", "name": "team"}}
BUCKET = {"id": "b", "name": "r", "displayName": "", "description": "", "config": "{}", "sweepName": None}
VIEWER = {"id": "u", "username": "u", "entity": "team", "email": "", "flags": "{}", "teams": {"edges": []}}
ARTIFACT = {"id": "a", "state": "COMMITTED", "artifactSequence": {"latestArtifact": {"id": "a"}}}


class WandbServer:
    """Answers on a free port of this machine.

    Args:
        status: HTTP status of every answer; 200 takes runs, 401 refuses the key.
        seconds: before each answer.
        silent_after: an operation after which nothing is answered any more.
    """

    def __init__(self, status: int = 200, seconds: float = 0, silent_after: str | None = None) -> None:
        self.operations: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.closed = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if silent_after in outer.operations:
                    outer.closed.wait(60)
                    return
                outer.closed.wait(seconds)
                answer = json.dumps(outer._answer(self.path, body) if status == 200 else {"errors": []}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST

            def log_message(self, *_) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_) -> None:
                pass  # those who ask do not wait for ever

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str, body: bytes) -> dict:
        if path != "/graphql":
            self.uploads[path] = body
            return {}
        request = json.loads(body)
        query = request["query"]
        name = request.get("operationName") or query.split()[1].partition("(")[0]
        self.operations.append(name)
        data = {
            "UpsertBucket": {"upsertBucket": {"bucket": BUCKET | {"project": PROJECT}, "inserted": True}},
            "Viewer": {"viewer": VIEWER},
            "ServerFeaturesQuery": {"serverInfo": {"features": []}},
            "ArtifactType": {"project": {"artifact": None}},
            "CreateArtifact": {"createArtifact": {"artifact": ARTIFACT}},
        }.get(name, {})
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/upload/{f}"} for f in request["variables"]["files"]]
            data = {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {"data": data}
