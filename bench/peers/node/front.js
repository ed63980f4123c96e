// The front of a queue: takes a call log by HTTP, enqueues it, and answers when the queue has confirmed it.
//
//     node front.js QUEUE BROKER_PORT PORT
"use strict";
const http = require("node:http");

const [name, broker, port] = process.argv.slice(2);
const open = require(`./queues/${name}.js`);
const ANSWER = JSON.stringify({ success: true });
const HEADERS = { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(ANSWER) };

async function main() {
  const queue = await open(Number(broker));
  http.createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", async () => {
      if (request.method === "POST") await queue.put(Buffer.concat(pieces));
      response.writeHead(request.method === "POST" ? 202 : 200, HEADERS).end(ANSWER);
    });
  }).listen(Number(port), "127.0.0.1");
}

main();
