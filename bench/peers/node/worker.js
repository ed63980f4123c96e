// The worker of a queue: posts each call log to the sink over kept connections, eight at a time, and acknowledges it then.
//
//     node worker.js QUEUE BROKER_PORT SINK_PORT
"use strict";
const http = require("node:http");

const [name, broker, sink] = process.argv.slice(2);
const open = require(`./queues/${name}.js`);
const AT_ONCE = 8;
const agent = new http.Agent({ keepAlive: true, maxSockets: AT_ONCE });

function post(body) {
  return new Promise((resolve, reject) => {
    const headers = { "Content-Type": "application/json", "Content-Length": body.length };
    const options = { host: "127.0.0.1", port: Number(sink), path: "/dev/send-call-log", method: "POST", agent, headers };
    const request = http.request(options, (response) => {
      response.resume();
      response.on("end", () => (response.statusCode < 300 ? resolve() : reject(new Error(`${response.statusCode}`))));
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function main() {
  const queue = await open(Number(broker));
  await queue.take(post, AT_ONCE);
}

main();
