"""Runs in a container in place of its flow, and asks the Prefect API once; the exit code is the answer.

Only the standard library, as the image may hold anything, and nothing secret is printed. `probe` sends it as text.
"""

import base64
import json
import os
import socket
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request


def main(pool: str) -> tuple[int, str]:
    """The exit code, and a line that tells why."""
    given = os.environ.get
    url = (given("PREFECT_API_URL") or "").rstrip("/")
    if not url:
        return 40, "PREFECT_API_URL is not set"
    headers = json.loads(given("PREFECT_CLIENT_CUSTOM_HEADERS") or "{}")
    if login := given("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    elif key := given("PREFECT_API_KEY"):
        headers["Authorization"] = "Bearer " + key
    tls = ssl.create_default_context(cafile=given("PREFECT_API_SSL_CERT_FILE") or None)
    if (given("PREFECT_API_TLS_INSECURE_SKIP_VERIFY") or "").lower() in {"1", "true"}:
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    host = url.partition("//")[2].partition("/")[0].rpartition("@")[2]
    request = urllib.request.Request(url + "/work_pools/" + urllib.parse.quote(pool, safe=""), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30, context=tls) as answer:
            return (0, f"{host} answers") if "name" in json.load(answer) else (45, f"{host} answers something else")
    except urllib.error.HTTPError as error:
        return 44 if error.code in {401, 403} else 45, f"{host} answers {error.code}"
    except ValueError:
        return 45, f"{host} answers something else"
    except OSError as error:
        why = getattr(error, "reason", error)
        code = 41 if isinstance(why, socket.gaierror) else 43 if isinstance(why, ssl.SSLError) else 42
        return code, f"{host}: {why}"


if __name__ == "__main__":
    found, told = main(sys.argv[1])
    print(f"ecs-worker doctor: {told}", flush=True)
    sys.exit(found)
