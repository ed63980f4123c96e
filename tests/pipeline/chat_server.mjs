// An OpenAI-compatible chat server over llama.cpp, as far as a pipeline asks: node chat_server.mjs MODEL.gguf
// Prints its port once it listens. It answers one request at a time, in the JSON schema that the request names.

import { createServer } from "node:http";
import { LlamaChatSession, getLlama } from "node-llama-cpp";

const llama = await getLlama({ gpu: false, maxThreads: 1, build: "never", progressLogs: false });
const model = await llama.loadModel({ modelPath: process.argv[2] });
const context = await model.createContext({ contextSize: 2048 });
const sequence = context.getSequence();

// So small a model finds no end of a text by itself.
const bounded = (schema) =>
  Object.fromEntries(
    Object.entries(schema.properties).map(([name, one]) => [name, one.enum ? one : { ...one, maxLength: 120 }]),
  );

async function complete(asked, signal) {
  const [system, user] = asked.messages.map((message) => message.content);
  const { schema } = asked.response_format.json_schema;
  const session = new LlamaChatSession({ contextSequence: sequence, systemPrompt: system });
  const grammar = await llama.createGrammarForJsonSchema({ ...schema, properties: bounded(schema) });
  const options = { grammar, signal, maxTokens: asked.max_tokens, temperature: asked.temperature };
  const { responseText, stopReason } = await session.promptWithMeta(user, options);
  session.dispose({ disposeSequence: false });
  return {
    choices: [
      { finish_reason: stopReason === "maxTokens" ? "length" : "stop", message: { role: "assistant", content: responseText } },
    ],
    usage: { total_tokens: sequence.nextTokenIndex },
  };
}

let before = Promise.resolve();
const server = createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const asked = JSON.parse(Buffer.concat(parts));
  const gone = new AbortController();
  response.on("close", () => gone.abort());
  before = before.then(() => complete(asked, gone.signal)).then(
    (answer) => response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(answer)),
    (error) => response.writeHead(500).end(String(error)),
  );
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
