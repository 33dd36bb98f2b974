"""Runs the service in the image that is being built: so its kernels are compiled, and the modules that it imports."""

import importlib
import os
import re
import signal
import subprocess
import sys

from gumball import Client

if os.environ["GUMBALL_DEVICE"] == "cuda":  # a GPU there is none, but its modules
    importlib.import_module("gumball_server.cuda_worker")

here = ("--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "0", "--device", "cpu")
process = subprocess.Popen([sys.executable, "-m", "gumball_server", *here], stderr=subprocess.PIPE, text=True)
ready = next((line for line in process.stderr if " ready " in line), "")
if not ready:
    sys.exit("the service did not start")
addresses = dict(re.findall(r"(\w+)=(\S+)", ready))
for url in (addresses["http"], "grpc://" + addresses["grpc"]):
    with Client(url) as client:
        client.sample([[0.0, 1.0]])
port = addresses["http"].rpartition(":")[2]
subprocess.run([sys.executable, "-m", "gumball_server.health", *here, "--http-port", port], check=True)
process.send_signal(signal.SIGINT)
sys.exit(process.wait())
