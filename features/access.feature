Feature: Who may ask, and for what
  What enters is checked before anything is done, and a caller may do what his scope allows.

  @VR-IN-01
  Scenario Outline: A digest that is <what> is refused
    Given a file "weights.bin" of 5000 bytes
    When I seal "weights.bin" expecting the digest "<digest>"
    Then it is refused with INVALID_ARGUMENT
    And nothing is listed

    Examples:
      | what                   | digest                                                                    |
      | too short              | fsverity:0000000000000000                                                 |
      | of an unknown kind     | md5:0000000000000000000000000000000000000000000000000000000000000000      |
      | in capitals            | fsverity:ABCDEF0000000000000000000000000000000000000000000000000000000000 |
      | with a look-alike      | fsverity:000000000000000000000000000000000000000000000000000000000000000о |

  @VR-IN-01
  Scenario Outline: A name that is <what> is refused
    Given a file "weights.bin" of 5000 bytes
    When I seal "weights.bin" as <name>
    Then it is refused with INVALID_ARGUMENT

    Examples:
      | what               | name         |
      | empty              | ""           |
      | more than one line | "two\nlines" |

  @VR-API-02 @emulated
  Scenario: A token of scope use verifies, and seals nothing
    Given a model "llama.safetensors" of 1 MiB
    And a service that listens on TCP
    And the service seals "llama.safetensors"
    And a token of scope use
    When somebody with that token verifies "llama.safetensors"
    Then the answer is 200
    When somebody with that token evicts "llama.safetensors"
    Then the answer is 403 FORBIDDEN
    And the service lists "llama.safetensors" as sealed

  @VR-API-02 @emulated
  Scenario: Without a token there is health, and nothing else
    Given a service that listens on TCP
    When somebody without a token asks for "/healthz"
    Then the answer is 200
    When somebody without a token asks for "/v1/shards"
    Then the answer is 401 UNAUTHENTICATED

  @VR-SEAL-03 @emulated
  Scenario: The key is in its file, and nowhere else
    Given a model "llama.safetensors" of 1 MiB
    And a service
    And the service seals "llama.safetensors"
    When an auditor asks for a statement about "llama.safetensors"
    And I run vram "ps --json"
    And the service is told to end
    Then the root key is in no file but its own, and in nothing that was said
