@emulated
Feature: Statements that a stranger can check
  An auditor asks with a nonce, and checks the answer elsewhere, with a public key and a file of their own.

  Background:
    Given a model "llama.safetensors" of 1 MiB
    And a copy of "llama.safetensors" called "own.safetensors"
    And a service
    And the service seals "llama.safetensors"
    When an auditor asks for a statement about "llama.safetensors"

  @VR-ATT-01 @VR-VER-07
  Scenario: It holds against a file of the auditor's own
    Then it succeeds
    And it holds for the file "own.safetensors", and shows possession, freshness and its place in the log

  @VR-ATT-01
  Scenario: One byte of the auditor's file is another
    When one byte of the file "own.safetensors" is changed
    Then it is refused for the file "own.safetensors" with "digest"

  @VR-ATT-01
  Scenario: One bit of the statement is another
    When one bit of the statement is changed
    Then it is refused for the file "own.safetensors" with "signature"

  @VR-ATT-01
  Scenario: It is shown again to somebody who asked another question
    Then it is refused to an auditor with another nonce

  @VR-ATT-01
  Scenario: An emulated device does not pass for a GPU
    Then it is refused for a GPU with "backend"

  @VR-ATT-01
  Scenario: Nothing is stated about bytes that changed
    When bit 0 of byte 4000 of "llama.safetensors" flips in the service's VRAM
    And an auditor asks for a statement about "llama.safetensors"
    Then it is refused with MEASUREMENT_MISMATCH

  @VR-ATT-01
  Scenario: Nothing is stated about what is evicted
    When I ask the service to evict "llama.safetensors"
    And an auditor asks for a statement about "llama.safetensors"
    Then it is refused with SHARD_NOT_FOUND
