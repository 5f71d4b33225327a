/**
 * Where a log stands: everything the next line follows from. One function moves it, `applyLine`; recovery calls it for
 * the lines it finds, the writer for the lines it has made durable. So a restart cannot end up anywhere else.
 */
import { createLogTree, type LogTree, NODE_BYTES } from "./tree.ts";

export interface LogPosition {
  /** All leaves; its size is the next seq. */
  readonly tree: LogTree;
  /** Leaf hash of the last line; zeros before the first. */
  prev: Uint8Array;
  /** Epoch of the last line; 0 before the first. */
  epoch: number;
  /** Lines of that epoch. */
  epochEntries: number;
  /** Lines of the last segment. */
  segmentEntries: number;
}

/** The position before the first line. */
export function createPosition(): LogPosition {
  return { tree: createLogTree(), prev: new Uint8Array(NODE_BYTES), epoch: 0, epochEntries: 0, segmentEntries: 0 };
}

/** Moves behind one line. `epoch` is its own; undefined if only its leaf hash was looked at. */
export function applyLine(position: LogPosition, leaf: Uint8Array, epoch: number | undefined): void {
  position.tree.append(leaf);
  position.prev = leaf;
  position.segmentEntries += 1;
  if (epoch === undefined || epoch === position.epoch) {
    position.epochEntries += 1;
    return;
  }
  position.epoch = epoch;
  position.epochEntries = 1;
}

/** Moves to the beginning of the next segment. */
export function beginSegment(position: LogPosition): void {
  position.segmentEntries = 0;
}
