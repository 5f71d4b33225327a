/** Certificate and key of a listener that other machines reach. The key is read only if nobody else can. */
import { promises } from "node:fs";
import { createSecureContext } from "node:tls";
import { systemReason, VramError } from "../../errors.ts";
import { readPrivate } from "../../files.ts";

export interface Tls {
  readonly cert: Buffer;
  readonly key: Buffer;
  readonly minVersion: "TLSv1.2";
}

/** A chain of a few certificates, or a key of any kind. */
const PEM_BYTES = 256 * 1024;

const invalid = (argument: string, message: string, cause?: unknown): VramError =>
  new VramError("INVALID_ARGUMENT", message, { cause, details: { argument } });

async function readChain(path: string): Promise<Buffer> {
  try {
    return await promises.readFile(path);
  } catch (cause) {
    throw invalid("tls.certFile", `${path}: cannot be read: ${systemReason(cause) ?? "unknown"}`, cause);
  }
}

/** Undefined if TLS is not configured. `INVALID_ARGUMENT` or `STATE_INVALID` if it is, and does not hold. */
export async function readTls(certFile: string | undefined, keyFile: string | undefined): Promise<Tls | undefined> {
  if (certFile === undefined && keyFile === undefined) return undefined;
  if (certFile === undefined || keyFile === undefined) {
    throw invalid("tls.certFile", "tls.certFile and tls.keyFile belong together");
  }
  const cert = await readChain(certFile);
  const key = await readPrivate(keyFile, PEM_BYTES);
  if (key === undefined) throw invalid("tls.keyFile", `${keyFile}: there is no file`);
  const tls: Tls = { cert, key, minVersion: "TLSv1.2" };
  try {
    createSecureContext(tls);
  } catch (cause) {
    throw invalid("tls.certFile", `${certFile} and ${keyFile} are no certificate and its key`, cause);
  }
  return tls;
}
