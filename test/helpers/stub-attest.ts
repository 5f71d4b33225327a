/** What a stub of a service answers about statements: well-formed, and signed by nobody. */
import * as replies from "../../src/service/replies.ts";
import * as is from "./stub-replies.ts";
import { checked, type StubRoutes } from "./stub-service.ts";

export const ENVELOPE: replies.StatementReply["envelope"] = {
  payload: "e30=",
  payloadType: "application/vnd.in-toto+json",
  signatures: [{ keyid: "b".repeat(64), sig: "MAA=" }],
};
export const REPLY: replies.StatementReply = {
  statementId: `statement-${"a".repeat(26)}`,
  record: is.record(),
  envelope: ENVELOPE,
  evidence: {
    ...{ kind: "nvidia-confidential-computing", nonce: "c".repeat(64), report: "AQ==" },
    ...{ certificateChain: "Ag==", attestationCertificateChain: "Aw==" },
  },
};
export const KEYS: replies.StatementKeysReply = {
  ...{ keyId: "b".repeat(64), publicKey: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n" },
  ...{ logKey: "vram-residency/0123456789abcdef+82ce3e6d+AfpU", origin: "vram-residency/0123456789abcdef" },
};
export const ISSUED: StubRoutes = { "POST /v1/statements": { status: 201, ...checked(replies.statement, REPLY) } };
export const SHOWN: StubRoutes = {
  "GET /v1/statement-keys": checked(replies.statementKeys, KEYS),
  "POST /v1/statement-keys": { status: 201, ...checked(replies.statementKeys, { ...KEYS, keyId: "d".repeat(64) }) },
};
