/**
 * API tokens (design §5, "Keys"; VR-API-02): 32 random bytes behind a prefix that names the scope, shown once. What is
 * kept, in `STATE/tokens.json` (0600), is the SHA-256 of that text, the scope, a name and when it was made.
 *
 * The command line changes the file while a service runs, so changes take a lock of their own (`tokens.lock`), and the
 * service looks at the file's identity before each check: what was revoked is refused by the next request.
 */
import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { type BigIntStats, constants, promises } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { fromHex, toHex } from "../bytes.ts";
import { Mutex } from "../dispose.ts";
import { VramError } from "../errors.ts";
import { isSystemError, readPrivate, replaceFile } from "../files.ts";
import { LIMITS } from "../limits.ts";

export const SCOPES = ["use", "operate"] as const;

/** What a token allows: `operate` includes `use`. */
export type Scope = (typeof SCOPES)[number];

/** A token as it may be shown: never the token, nor enough of its hash to look for one. */
export interface TokenInfo {
  readonly name: string;
  readonly scope: Scope;
  /** The first 6 hex digits of its SHA-256: what logs say of it. */
  readonly fingerprint: string;
  readonly createdAtMs: number;
}

/** Tokens of a state directory. */
export interface TokenStore {
  /** Makes a token. The text is nowhere else: whoever loses it makes another. `INVALID_ARGUMENT` if the name is taken. */
  add(name: string, scope: Scope): Promise<TokenInfo & { readonly token: string }>;
  list(): Promise<readonly TokenInfo[]>;
  /** Takes a token away. `INVALID_ARGUMENT` if there is none of this name. */
  revoke(name: string): Promise<TokenInfo>;
  /** Whose token this is; undefined if it is nobody's. */
  check(presented: string): Promise<TokenInfo | undefined>;
}

const FILE = "tokens.json";
const LOCK = "tokens.lock";
const TOKEN_BYTES = 32;
/** 32 bytes are 43 letters of base64url. */
const TOKEN = /^vram_(?:use|operate)_[A-Za-z0-9_-]{43}$/;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const FINGERPRINT_DIGITS = 6;
/** Nothing later is a date in JavaScript (ECMA-262, "Time Values"). */
const TIME_MAX_MS = 8.64e15;

const stored = z.strictObject({
  name: z.string().regex(NAME),
  scope: z.enum(SCOPES),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  createdAtMs: z.int().min(0).max(TIME_MAX_MS),
});
type Stored = z.infer<typeof stored>;

const areDistinct = (values: readonly string[]): boolean => new Set(values).size === values.length;

const tokensFile = z
  .strictObject({ version: z.literal(1), tokens: z.array(stored).max(LIMITS.tokens) })
  .refine(({ tokens }) => areDistinct(tokens.map(({ name }) => name)))
  .refine(({ tokens }) => areDistinct(tokens.map(({ sha256 }) => sha256)));

const refuse = (why: string, fix: string): VramError =>
  new VramError("INVALID_ARGUMENT", why, { fix, details: { argument: "name" } });

const infoOf = ({ name, scope, sha256, createdAtMs }: Stored): TokenInfo => ({
  name,
  scope,
  fingerprint: sha256.slice(0, FINGERPRINT_DIGITS),
  createdAtMs,
});

const hashOf = (text: string): Uint8Array => createHash("sha256").update(text, "utf8").digest();

function parseTokens(bytes: Uint8Array, path: string): readonly Stored[] {
  try {
    return tokensFile.parse(JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))).tokens;
  } catch (cause) {
    throw new VramError("STATE_INVALID", `${path}: not a file of tokens of this version`, {
      cause,
      fix: "remove it, and make the tokens anew with `vram token add`",
    });
  }
}

async function readTokens(path: string): Promise<readonly Stored[]> {
  const bytes = await readPrivate(path, LIMITS.tokensFileBytes);
  return bytes === undefined ? [] : parseTokens(bytes, path);
}

/**
 * The stored token whose hash is that of `presented`. Every one is compared, in constant time, whichever it is: how long
 * it takes depends on how many there are, and on nothing else.
 */
export function findToken(tokens: readonly Stored[], presented: string): Stored | undefined {
  if (!TOKEN.test(presented)) return undefined;
  const hash = hashOf(presented);
  let found: Stored | undefined;
  for (const token of tokens) {
    if (timingSafeEqual(hash, fromHex(token.sha256, hash.byteLength, "sha256"))) found = token;
  }
  return found;
}

/** Runs `task` while no other process changes the tokens. */
async function locked<T>(stateDir: string, task: () => Promise<T>): Promise<T> {
  const path = join(stateDir, LOCK);
  const flags = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW;
  const file = await promises.open(path, flags, 0o600).catch((cause: unknown) => {
    throw new VramError("STATE_INVALID", `${path}: cannot be made`, { cause });
  });
  try {
    // Loaded here: who only checks tokens needs no native code.
    const { lockFile } = await import("../ffi/descriptors.ts");
    if (!lockFile(file.fd)) throw new VramError("STATE_BUSY", `${path}: another process changes the tokens`);
    return await task();
  } finally {
    await file.close();
  }
}

/** A file that has the same identity has not been replaced; ours is replaced as a whole, never written to. */
const identityOf = (stats: BigIntStats | undefined): string =>
  stats === undefined ? "none" : `${stats.dev} ${stats.ino} ${stats.size} ${stats.mtimeNs} ${stats.ctimeNs}`;

/** The tokens of a state directory, which must exist. */
export function openTokens(stateDir: string, wallMs: () => number = Date.now): TokenStore {
  const path = join(stateDir, FILE);
  const changing = new Mutex();
  let known: { readonly identity: string; readonly tokens: readonly Stored[] } | undefined;

  const write = async (tokens: readonly Stored[]): Promise<void> => {
    await replaceFile(path, `${JSON.stringify({ version: 1, tokens }, null, 2)}\n`).catch((cause: unknown) => {
      throw new VramError("STATE_INVALID", `${path}: cannot be written`, { cause });
    });
  };
  const change = <T>(task: (tokens: readonly Stored[]) => Promise<T>): Promise<T> =>
    changing.run(() => locked(stateDir, async () => task(await readTokens(path))));
  const current = async (): Promise<readonly Stored[]> => {
    const stats = await promises.lstat(path, { bigint: true }).catch((cause: unknown) => {
      if (isSystemError(cause, "ENOENT")) return undefined;
      throw new VramError("STATE_INVALID", `${path}: cannot be read`, { cause });
    });
    const identity = identityOf(stats);
    if (known?.identity !== identity) {
      // Taken before reading: if the file is replaced in between, the next check reads again.
      known = { identity, tokens: await readTokens(path) };
    }
    return known.tokens;
  };

  return {
    add: async (name, scope) => {
      if (!NAME.test(name)) {
        throw refuse("a token's name is 1 to 64 of A–Z a–z 0–9 . _ -, first a letter or digit", "choose another name");
      }
      return change(async (tokens) => {
        if (tokens.some((token) => token.name === name)) {
          throw refuse(`there is a token called ${name}`, "revoke it first, or choose another name");
        }
        if (tokens.length >= LIMITS.tokens) {
          throw refuse(`there are ${tokens.length} tokens, and ${LIMITS.tokens} is the most`, "revoke one first");
        }
        const token = `vram_${scope}_${randomBytes(TOKEN_BYTES).toString("base64url")}`;
        const added: Stored = { name, scope, sha256: toHex(hashOf(token)), createdAtMs: wallMs() };
        await write([...tokens, added]);
        return { ...infoOf(added), token };
      });
    },
    list: async () => (await readTokens(path)).map(infoOf),
    revoke: async (name) =>
      change(async (tokens) => {
        const gone = tokens.find((token) => token.name === name);
        if (gone === undefined) throw refuse("there is no token of this name", "`vram token list` lists them");
        await write(tokens.filter((token) => token !== gone));
        return infoOf(gone);
      }),
    check: async (presented) => {
      const found = findToken(await current(), presented);
      return found === undefined ? undefined : infoOf(found);
    },
  };
}
