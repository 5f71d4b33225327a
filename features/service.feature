@emulated
Feature: The service
  What is sealed stays wanted until it is evicted, and what was found to have changed stays stopped, also over restarts.

  Background:
    Given a model "llama.safetensors" of 1 MiB
    And a service
    And the service seals "llama.safetensors"

  @VR-API-01
  Scenario: A lease is granted right after the bytes were measured
    When I ask the service for a lease on "llama.safetensors"
    Then it succeeds
    And a leased shard is not evicted

  @VR-API-04
  Scenario: What is wanted comes back after the service was killed, under the same digest
    When the service is killed and started again
    Then the service has "llama.safetensors" under the digest of its file

  @VR-VER-06 @VR-API-01
  Scenario: A flipped bit stops what relies on it, over a restart, until somebody says why
    When bit 0 of byte 4000 of "llama.safetensors" flips in the service's VRAM
    And I run vram "verify llama.safetensors"
    Then the command exits with 3
    When the service is killed and started again
    And I ask the service for a lease on "llama.safetensors"
    Then it is refused with SHARD_NOT_RESIDENT
    And the message names "stopped"
    When I ask the service to resume because "memory test clean"
    Then it succeeds

  @VR-API-03
  Scenario: A service that is told to end evicts, and its audit log is intact
    When the service is told to end
    Then the service has ended in order
    When I run vram "audit verify"
    Then the command exits with 0

  @VR-API-01
  Scenario: What is evicted is gone
    When I ask the service to evict "llama.safetensors"
    Then it succeeds
    When I ask the service to verify "llama.safetensors"
    Then it is refused with SHARD_NOT_FOUND
