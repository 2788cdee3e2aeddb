"""An S3 server for the tests, started by tools/s3.sh: moto, told to check signatures as S3 does.

Prints one JSON object once it accepts connections: `endpoint`, `bucket`, and the keys of the one user who may use it.
Lines on standard input are obeyed and answered by their own word: `stop` closes the port, `start` opens the same one
again over the same objects. The server ends with its standard input.
"""

import json
import logging
import sys

import boto3
from moto import settings
from moto.server import ThreadedMotoServer

BUCKET = "pictures"


def make_user(endpoint: str) -> dict[str, str]:
    """A user who may do everything, and an empty bucket; from here on nobody else may do anything."""
    anybody = {
        "endpoint_url": endpoint,
        "region_name": "us-east-1",
        "aws_access_key_id": "anybody",
        "aws_secret_access_key": "anybody",
    }
    iam = boto3.client("iam", **anybody)
    iam.create_user(UserName="lensgate")
    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.put_user_policy(UserName="lensgate", PolicyName="all", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName="lensgate")["AccessKey"]
    boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
    return {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"http://127.0.0.1:{port}"
    place = {"endpoint": endpoint, "bucket": BUCKET, **make_user(endpoint)}
    print(json.dumps(place), flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "stop":
            server.stop()
            server._server.server_close()
        elif command == "start":
            server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
            server.start()
        print(command, flush=True)


main()
