// Vercel's resumable-stream in a plain Node server, used as its README shows.
//
//   node resumable.mjs PORT PROVIDER_URL        (in a folder that holds the packages; REDIS_URL is read by the library)
//
// POST /streams {model} starts a generation and answers its text as SSE, its id in X-Stream-Id;
// GET /streams/ID joins it, and answers 204 if there is nothing left to join.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { json } from "node:stream/consumers";

const { createResumableStreamContext } = createRequire(`${process.cwd()}/`)("resumable-stream");
const [port, provider] = process.argv.slice(2);
const streams = createResumableStreamContext({ waitUntil: null });

createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (response.headersSent) response.destroy();
    else response.writeHead(500).end(String(error));
  });
}).listen({ port: Number(port), host: "127.0.0.1", backlog: 4096 });

async function answer(request, response) {
  if (request.method === "POST" && request.url === "/streams") {
    const { model } = await json(request);
    const id = randomUUID();
    return send(await streams.createNewResumableStream(id, () => frames(model)), response, { "X-Stream-Id": id });
  }
  if (request.method === "GET" && request.url.startsWith("/streams/")) {
    const stream = await streams.resumeExistingStream(request.url.slice("/streams/".length));
    return stream ? send(stream, response) : response.writeHead(204).end();
  }
  return response.writeHead(404).end();
}

async function send(stream, response, headers = {}) {
  response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache", ...headers });
  response.flushHeaders();
  const reader = stream.getReader();
  const gone = new AbortController();
  response.on("close", () => { gone.abort(); reader.cancel().catch(() => {}); });
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    if (response.destroyed) return;
    if (!response.write(part.value)) await once(response, "drain", { signal: gone.signal });
  }
  response.end();
}

// The generation as the strings that resumable-stream carries: one SSE frame for each delta.
function frames(model) {
  return new ReadableStream({
    async start(controller) {
      try {
        for await (const data of generate(model)) {
          const delta = JSON.parse(data).choices[0]?.delta?.content;
          if (delta) controller.enqueue(`data: ${JSON.stringify({ type: "text-delta", delta })}\n\n`);
        }
        controller.enqueue("data: [DONE]\n\n");
      } catch (error) {
        controller.enqueue(`data: ${JSON.stringify({ type: "error", errorText: String(error) })}\n\n`);
      }
      controller.close();
    },
  });
}

async function* generate(model) {
  const upstream = await fetch(`${provider}/v1/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "go" }] }),
  });
  let pending = "";
  for await (const text of upstream.body.pipeThrough(new TextDecoderStream())) {
    const events = (pending + text).split("\n\n");
    pending = events.pop();
    for (const event of events) if (event !== "data: [DONE]") yield event.slice("data: ".length);
  }
}
