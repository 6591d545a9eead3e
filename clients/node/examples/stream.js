// SPDX-License-Identifier: Apache-2.0
// Streams an answer to its arguments, then goes on with the same session.
import { Falcond } from "../falcond.js";

const falcon = new Falcond();
const run = await falcon.generate(process.argv.slice(2).join(" ") || "Once upon a time", { n: 40, seed: 1 });
for await (const piece of run) process.stdout.write(piece.text);
await run.append(" And then", { n: 40 });
for await (const piece of run) process.stdout.write(piece.text);
console.log();
await run.drop();
falcon.close();
