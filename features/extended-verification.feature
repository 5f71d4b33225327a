Feature: Challenges and freshness
  Whoever relies on a shard can ask how old the measurement is, or have one that could not have been made before.

  Background:
    Given a file "weights.bin" of 1048577 bytes
    And "weights.bin" is sealed

  @VR-VER-07
  Scenario: A salt of the caller's is answered as the standard's tool answers it
    When I verify "weights.bin" with the salt 00112233445566778899aabbccddeeff
    Then it succeeds
    And the salted answer is what fsverity says of "weights.bin" with 00112233445566778899aabbccddeeff

  @VR-VER-07
  Scenario: A measurement that is fresh enough is settled for, and says so
    When I verify "weights.bin" settling for the last 3600000 ms
    Then it succeeds
    And nothing was measured now

  @VR-VER-07
  Scenario: No age at all has the bytes measured
    When I verify "weights.bin" settling for the last 0 ms
    Then it succeeds
    And every byte of "weights.bin" was measured

  @VR-VER-07
  Scenario: A salt is never settled for
    When I verify "weights.bin" with the salt ffff
    Then it succeeds
    And every byte of "weights.bin" was measured

  @VR-IN-04
  Scenario: A salt that is longer than the standard allows is refused
    When I verify "weights.bin" with the salt 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
    Then it is refused with INVALID_ARGUMENT
