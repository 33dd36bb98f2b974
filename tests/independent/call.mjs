// Calls a unary method of gRPC by Node's own HTTP/2 (nghttp2): node call.mjs http://HOST:PORT /package.Service/Method
// Reads a JSON list of messages in hex, makes all calls at once on one connection, and writes what each came to.
import http2 from "node:http2";
import { text } from "node:stream/consumers";

const [address, path] = process.argv.slice(2);
const session = http2.connect(address);

function call(message) {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
    });
    const told = {};
    const chunks = [];
    stream.on("response", (headers) => Object.assign(told, headers));
    stream.on("trailers", (headers) => Object.assign(told, headers));
    stream.on("data", (chunk) => chunks.push(chunk));
    stream.on("error", reject);
    stream.on("end", () => {
      const body = Buffer.concat(chunks);
      const whole = body.length === 0 || body.readUInt32BE(1) === body.length - 5;
      resolve({ http: told[":status"], grpc: told["grpc-status"], whole, message: body.subarray(5).toString("hex") });
    });
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(message.length, 1);
    stream.end(Buffer.concat([prefix, message]));
  });
}

const messages = JSON.parse(await text(process.stdin)).map((hex) => Buffer.from(hex, "hex"));
console.log(JSON.stringify(await Promise.all(messages.map(call))));
session.close();
