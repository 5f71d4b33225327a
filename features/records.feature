Feature: What is told of it
  An operation that must be on record does not happen without; what happened is narrated and counted.

  @VR-AUD-03 @emulated
  Scenario: On a full disk nothing is sealed, and evicting goes on
    Given a state directory
    And a disk that may fill up
    And a file "weights.bin" of 5000 bytes
    And "weights.bin" is sealed
    When the disk of the audit log is full
    And I seal "weights.bin" as "again"
    Then it is refused with AUDIT_UNAVAILABLE
    When I verify "weights.bin"
    Then it succeeds
    When I evict "weights.bin"
    Then it succeeds
    And nothing is listed

  @VR-AUD-04 @emulated
  Scenario: A service that is killed has lost nothing that it answered for
    Given a model "llama.safetensors" of 1 MiB
    And a service
    And the service seals "llama.safetensors"
    When the service is killed and started again
    And I run vram "audit verify"
    Then the command exits with 0
    And the service's audit log has vram_sealed
    And it has two starts

  @VR-POL-02 @emulated
  Scenario: A violation is on record and nothing starts
    Given a state directory
    And a driver that says "integrated" is 1
    When I open the device
    Then it is refused with POLICY_VIOLATION
    And the audit log has policy_violation

  @VR-NAR-01 @emulated
  Scenario: Each thing that happens is told, with who, what, to what, and a sentence
    Given a model "llama.safetensors" of 1 MiB
    When I run the command "try --tamper --backend emulated --log-format json llama.safetensors"
    Then the command exits with 0
    And each line of narration has actor, action, target and a sentence
    And these are told: "init cuda_init allocate digest seal verify verify_failed deallocate"

  @VR-NAR-02 @emulated
  Scenario: A file name cannot write to the terminal
    Given a file whose name has an escape sequence
    When I run the command on it
    Then nothing that it says moves the cursor

  @VR-MET-01 @emulated
  Scenario: A run leaves figures that Prometheus can read
    Given a model "llama.safetensors" of 1 MiB
    When I run the command "try --backend emulated --metrics figures.prom llama.safetensors"
    Then the command exits with 0
    And "figures.prom" counts a seal and a verification

  @VR-PRF-01 @emulated
  Scenario: What somebody changed in a proof bundle is found
    Given a copy of the proof bundle that is committed
    When I run the command "proof verify bundle"
    Then the command exits with 0
    And it says "nothing in it was shown on a GPU"
    When one byte of the file "bundle/tests.json" is changed
    And I run the command "proof verify bundle"
    Then the command exits with 3
    And it says "changed: tests.json"
