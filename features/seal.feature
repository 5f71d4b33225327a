Feature: Sealing a model in VRAM
  A source is read once into the memory of a device, measured there, and sealed only if the measurement is what it should
  be. A call that fails has done nothing.

  @VR-SEAL-01 @VR-SEAL-05 @emulated
  Scenario: A model is sealed under the digest that the standard's own tool gives its file
    Given a model "llama.safetensors" of 2 MiB
    When I seal "llama.safetensors"
    Then it succeeds
    And its digest is what fsverity says of "llama.safetensors"
    And it was compared with what was witnessed
    And the seal says that the device is EMULATED

  @VR-SEAL-05
  Scenario: Any file is sealed as raw bytes
    Given a file "weights.bin" of 4097 bytes
    When I seal "weights.bin"
    Then it succeeds
    And its digest is what fsverity says of "weights.bin"

  @VR-SEAL-01
  Scenario: A digest that was published decides
    Given a file "weights.bin" of 1000000 bytes
    When I seal "weights.bin" expecting its fs-verity digest
    Then it succeeds
    And it was compared with what was expected

  @VR-SEAL-01
  Scenario: A plain SHA-256 that was published decides, and is kept
    Given a file "weights.bin" of 1000000 bytes
    When I seal "weights.bin" expecting its SHA-256
    Then it succeeds
    And its SHA-256 is on record

  @VR-SEAL-01
  Scenario: Another file than the expected one is not sealed, and leaves nothing
    Given a file "weights.bin" of 1000000 bytes
    When I seal "weights.bin" expecting another digest
    Then it is refused with DIGEST_MISMATCH
    And nothing is listed
    And all of the memory is free again

  @VR-SEAL-04
  Scenario: Sealing the same content under the same name again gives the same shard
    Given a file "weights.bin" of 5000 bytes
    And "weights.bin" is sealed
    When I seal "weights.bin"
    Then it succeeds
    And 1 shards are listed

  @VR-SEAL-04
  Scenario: A name that stands for other content is not taken over
    Given a file "one.bin" of 5000 bytes
    And a file "other.bin" of 5000 bytes
    And "one.bin" is sealed
    When I seal "other.bin" as "one.bin"
    Then it is refused with NAME_CONFLICT
    And "one.bin" is listed as sealed

  @VR-IN-04
  Scenario: An empty file is refused
    Given a file "empty.bin" of 0 bytes
    When I seal "empty.bin"
    Then it is refused with SOURCE_EMPTY

  @VR-MEM-07
  Scenario: What is handed out has neither addresses nor keys nor paths
    Given a file "weights.bin" of 5000 bytes
    When I seal "weights.bin"
    Then it succeeds
    And neither an address nor a key nor the path of the file is in what was handed out
